"""The families of models, one file each, in one dict: the only room that knows the modules of any of them."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from mixqsam.errors import ModelError
from mixqsam.families.compatibility import check_transformers
from mixqsam.families.family import Family, Larger
from mixqsam.families.mobile_sam import MOBILE_SAM
from mixqsam.families.sam import SAM
from mixqsam.families.sam2 import SAM2
from mixqsam.families.sam3_tracker import SAM3_TRACKER
from mixqsam.families.sam_hq import SAM_HQ
from mixqsam.families.sam_hq_light import SAM_HQ_LIGHT

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (SAM, MOBILE_SAM, SAM_HQ, SAM_HQ_LIGHT, SAM2, SAM3_TRACKER)
}


# Models of other kinds that people ask for → what there is instead.
_INSTEAD = {
    "sam3": "SAM 3 finds what a text names, which mixqsam does not quantize. The tracker in the same checkpoint takes "
    "boxes and points: give a checkpoint of the type 'sam3_tracker' or 'sam3_video' (facebook/sam3).",
    **dict.fromkeys(
        ("edgetam", "edgetam_video"),
        "Its encoder is one of timm, which mixqsam does not install, and has batch normalisations that would have to "
        "be folded first. Give a small SAM 2.1 (facebook/sam2.1-hiera-tiny) or MobileSAM (mobile-sam) instead.",
    ),
}


def find_family(model_type: str, *, source: str) -> Family:
    """The family of a `model_type`; `source` names the checkpoint in the error.

    Raises:
        ModelError: it is unknown; the message lists those that are known.
    """
    if model_type not in FAMILIES:
        known = ", ".join(repr(name) for name in FAMILIES)
        instead = f" {_INSTEAD[model_type]}" if model_type in _INSTEAD else ""
        raise ModelError(f"{source} is a {model_type!r} model; mixqsam quantizes models of type {known}.{instead}")
    return FAMILIES[model_type]


def find_checkpoint_family(model_type: str, *, source: str) -> tuple[Family, Larger | None]:
    """The family that a float checkpoint is loaded as, and the larger model that it is of, if it is.

    Raises:
        ModelError: it is unknown; the message lists those that are known.
    """
    for family in FAMILIES.values():
        if model_type in family.larger:
            return family, family.larger[model_type]
    return find_family(model_type, source=source), None


def family_of(config: Any) -> Family:
    """The family of a configuration.

    Raises:
        ModelError: it is unknown.
    """
    return find_family(str(config.model_type), source="This")


def prepare(model: PreTrainedModel) -> PreTrainedModel:
    """The model with the engine's attentions and MLPs in place of its own, changed in place; the weights are shared.

    Raises:
        ModelError: its family is unknown.
        DependencyError: the installed transformers computes the family otherwise than the engine.
    """
    family = family_of(model.config)
    check_transformers(family)
    family.prepare(model)
    return model
