"""MobileSAM (arXiv 2306.14289): a TinyViT encoder (arXiv 2207.10666) before SAM's prompt encoder and mask decoder."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from mixqsam.families import tiny_encoder, two_way
from mixqsam.families.checkpoint import read_state
from mixqsam.families.family import Family, Layout
from mixqsam.families.meta_layout import TWO_WAY_EPS
from mixqsam.families.mobile_sam_checkpoint import MARK, config_values, fill_released, without_prefix
from mixqsam.families.mobile_sam_config import MobileSamConfig
from mixqsam.families.mobile_sam_model import MobileSamModel

_log = logging.getLogger(__name__)


def load_checkpoint(path: Path, *, image_size: int | None = None) -> tuple[MobileSamModel, SamImageProcessorPil]:
    """Read a file in the released layout (`mobile_sam.pt`), or one of the same structure with other sizes.

    Args:
        path: a file of `torch.save`.
        image_size: pixels along a side of the input, which the tensors do not tell; None for that of the released
            models: 1024, or 256 where the patch embedding keeps the resolution (LiteMedSAM).

    Returns:
        The model in evaluation mode, its batch normalisations folded, and what prepares its images.

    Raises:
        ModelError: damaged, of another family, or with missing or foreign tensors; the message names them.
    """
    return load_state(read_state(path), path, image_size=image_size)


def load_state(
    state: Mapping[str, Tensor], path: Path, *, image_size: int | None = None
) -> tuple[MobileSamModel, SamImageProcessorPil]:
    """`load_checkpoint` of tensors that are read already; `path` names their file in errors."""
    model = fill_released(
        without_prefix(state, path),
        path,
        kind="MobileSAM",
        make_config=lambda tensors: MobileSamConfig(**config_values(tensors, image_size=image_size)),
        model=MobileSamModel,
    )
    config = model.config
    if _is_medical(config):
        _log.warning(
            "%s has LiteMedSAM's encoder: pixels are divided by 255, and their mean is not subtracted. Stretch each "
            "image to 0 … 255 first, as its authors do.",
            path,
        )
    return model, make_processor(config)


def make_processor(config: MobileSamConfig) -> SamImageProcessorPil:
    """SAM's preprocessing at the model's size; LiteMedSAM's, where the patch embedding is that model's."""
    processor = two_way.default_processor(config)
    processor.do_normalize = not _is_medical(config)
    return processor


def _is_medical(config: MobileSamConfig) -> bool:
    return bool(config.vision_config.patch_kernel == 1)


def _sample() -> MobileSamConfig:
    return MobileSamConfig(vision_config=tiny_encoder.sample_vision(), **two_way.sample_decoder(image_size=48))


MOBILE_SAM = Family(
    name="mobile_sam",
    title="MobileSAM",
    model=MobileSamModel,
    config=MobileSamConfig,
    part=tiny_encoder.part,
    roles=tiny_encoder.ROLES,
    block=tiny_encoder.block,
    blocks=tiny_encoder.blocks,
    image_tokens=two_way.IMAGE_TOKENS,
    tied=two_way.TIED,
    check=partial(tiny_encoder.check, MobileSamConfig),
    prepare=two_way.prepare_decoder,
    framing=replace(two_way.PADDED, default=make_processor),
    unusual=lambda config: two_way.unusual(
        config, norm_eps=TWO_WAY_EPS, usual_size=256 if _is_medical(config) else 1024
    ),
    encode=two_way.encode,
    embed=two_way.embed,
    decode=two_way.decode,
    layouts=(Layout("MobileSAM's `mobile_sam.pt`", marks=(MARK,), load=load_state),),
    resizing=tiny_encoder.RESIZING,
    released={"mobile-sam": "dhkim2810/MobileSAM"},
    sample=_sample,
)
