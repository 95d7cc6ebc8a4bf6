"""MobileSAM (arXiv 2306.14289): a TinyViT encoder (arXiv 2207.10666) before SAM's prompt encoder and mask decoder."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from mixqsam.errors import ModelError
from mixqsam.families import two_way
from mixqsam.families.checkpoint import fill_model, read_state
from mixqsam.families.family import BlockPath, Family, Layout, Resizing
from mixqsam.families.meta_layout import TWO_WAY_EPS
from mixqsam.families.mobile_sam_checkpoint import MARK, config_values, convert, without_prefix
from mixqsam.families.mobile_sam_config import MobileSamConfig
from mixqsam.families.mobile_sam_model import MobileSamModel
from mixqsam.families.sizes import check_fit, check_sizes
from mixqsam.plan import Part

_ENCODER, _NECK = "vision_encoder", "vision_encoder.neck"
_log = logging.getLogger(__name__)


def _part(name: str) -> Part | None:
    """Stages and neck of the encoder, and the two-way transformer; the patch embedding stays float, as SAM's does."""
    if name.startswith((f"{_ENCODER}.layers.", f"{_NECK}.")):
        return "encoder"
    return two_way.decoder_part(name)


def _block(name: str) -> str:
    """`1.0` (stage and block), `merge 1` (behind that stage), `neck`, or the decoder's."""
    parts = name.split(".")
    if parts[0] != _ENCODER:
        return two_way.decoder_block(name)
    if parts[1] != "layers":
        return "neck"
    return f"merge {parts[2]}" if parts[3] == "downsample" else f"{parts[2]}.{parts[4]}"


def _blocks(config: Any) -> Sequence[BlockPath]:
    """Each block and each merge of the encoder, its neck, and the decoder's blocks."""
    paths = []
    depths = config.vision_config.depths
    for stage, depth in enumerate(depths):
        paths += [f"{_ENCODER}.layers.{stage}.blocks.{index}" for index in range(depth)]
        paths += [f"{_ENCODER}.layers.{stage}.downsample"] if stage < len(depths) - 1 else []
    return [*(BlockPath(path) for path in [*paths, _NECK]), *two_way.decoder_blocks(config)]


def _check(values: Mapping[str, Any]) -> None:
    """Refuse sizes that no MobileSAM has, or that do not fit each other."""
    check_sizes(values)
    config = {name: value for name, value in values.items() if name != "quantization_config"}
    check_fit(MobileSamConfig.from_dict(config))


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
    state = without_prefix(state, path)
    try:
        config = MobileSamConfig(**config_values(state, image_size=image_size))
        with torch.device("meta"):
            model = MobileSamModel(config)
    except KeyError as error:
        raise ModelError(f"{path} is cut or is not a MobileSAM: the tensor {error} is missing.") from error
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise ModelError(f"{path} has tensors of sizes that no MobileSAM has: {error}.") from error
    fill_model(model, convert(state, path=path), path, kind="MobileSAM")
    if _is_medical(config):
        _log.warning(
            "%s has LiteMedSAM's encoder: pixels are divided by 255, and their mean is not subtracted. Stretch each "
            "image to 0 … 255 first, as its authors do.",
            path,
        )
    return model.eval(), make_processor(config)


def make_processor(config: MobileSamConfig) -> SamImageProcessorPil:
    """SAM's preprocessing at the model's size; LiteMedSAM's, where the patch embedding is that model's."""
    processor = two_way.default_processor(config)
    processor.do_normalize = not _is_medical(config)
    return processor


def _is_medical(config: MobileSamConfig) -> bool:
    return bool(config.vision_config.patch_kernel == 1)


def _sample() -> MobileSamConfig:
    """Every kind of block of the encoder, with windows that are padded, on a map of 3 × 3."""
    vision = {
        "image_size": 48,
        "embed_dims": [4, 8, 12, 16],
        "depths": [1, 1, 1, 1],
        "num_heads": [2, 2, 2],
        "window_sizes": [4, 2, 2],
    }
    return MobileSamConfig(vision_config=vision | two_way.SAMPLE_NECK, **two_way.sample_decoder(image_size=48))


MOBILE_SAM = Family(
    name="mobile_sam",
    model=MobileSamModel,
    config=MobileSamConfig,
    part=_part,
    roles=two_way.ROLES | {"qkv": "query-key-value", "proj": "projection"},
    block=_block,
    blocks=_blocks,
    image_tokens=two_way.IMAGE_TOKENS,
    tied=two_way.TIED,
    check=_check,
    prepare=two_way.prepare_decoder,
    framing=replace(two_way.PADDED, default=make_processor),
    unusual=lambda config: two_way.unusual(
        config, norm_eps=TWO_WAY_EPS, usual_size=256 if _is_medical(config) else 1024
    ),
    encode=two_way.encode,
    embed=two_way.embed,
    decode=two_way.decode,
    layouts=(Layout("MobileSAM's `mobile_sam.pt`", marks=(MARK,), load=load_state),),
    # Windows have their biases, whatever the size of the map.
    resizing=Resizing(multiple=two_way.patch_size, configure=two_way.configure_size),
    released={"mobile-sam": "dhkim2810/MobileSAM"},
    sample=_sample,
)
