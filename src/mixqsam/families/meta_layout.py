"""Meta's original checkpoints (`sam_vit_b_01ec64.pth` and their kin) → transformers' names and shapes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import SamModel

from mixqsam.families.named_layout import load_tensors

# Order matters: the first rule whose pattern is found is applied, then the next ones.
_RENAMES = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^vision_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^vision_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^vision_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^vision_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^vision_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^(vision_encoder\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "shared_image_embedding.positional_embedding",
    ),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"^mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
)
_HEAD = re.compile(
    r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+|hq_mask_mlp))\.layers\.(\d+)\."
)
# Of the two-way blocks in the original code; transformers' default is 1e-6, which moves logits by 0.1%.
TWO_WAY_EPS = 1e-5
MARK = "image_encoder.patch_embed.proj.weight"


def load_meta(state: Mapping[str, Tensor], path: Path) -> tuple[SamModel, Any]:
    """The model and its image processor; `path` names the file in errors.

    Raises:
        ModelError: a tensor is missing, foreign or of another shape, or the sizes are those of no SAM.
    """
    return load_tensors(rename(state), path, norm_eps=TWO_WAY_EPS)


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under transformers' names."""
    depths = _head_depths(state)
    return {_rename_one(name, depths): tensor for name, tensor in state.items()}


def _head_depths(state: Mapping[str, Tensor]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for name in state:
        if match := _HEAD.match(name):
            depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    return depths


def _rename_one(name: str, depths: Mapping[str, int]) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    if match := _HEAD.match(name):
        index, last = int(match[2]), depths[match[1]] - 1
        place = "proj_in" if index == 0 else "proj_out" if index == last else f"layers.{index - 1}"
        name = f"{match[1]}.{place}.{name[match.end() :]}"
    return name
