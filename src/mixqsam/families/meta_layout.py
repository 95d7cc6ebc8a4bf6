"""Meta's original checkpoints (`sam_vit_b_01ec64.pth` and their kin) → transformers' names and shapes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import SamConfig, SamModel

from mixqsam.errors import ModelError
from mixqsam.families import two_way
from mixqsam.families.checkpoint import fill_model

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
_TOKEN_LAYER = re.compile(r"mask_decoder\.transformer\.layers\.(\d+)\.")
_HEAD = re.compile(r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.layers\.(\d+)\.")


def is_meta_layout(state: Mapping[str, Tensor]) -> bool:
    """Whether names are those of Meta's repository."""
    return "image_encoder.patch_embed.proj.weight" in state


def load_meta(state: Mapping[str, Tensor], path: Path) -> tuple[SamModel, Any]:
    """The model and its image processor; `path` names the file in errors.

    Raises:
        ModelError: a tensor is missing, foreign or of another shape, or the sizes are those of no SAM.
    """
    try:
        config = config_of(state)
        with torch.device("meta"):
            model = SamModel(config)
    except KeyError as error:
        raise ModelError(f"{path} is cut or is no SAM: the tensor {error} is missing.") from error
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{path} has tensors of sizes that no SAM has: {reason}") from error
    tensors = rename(state)
    tensors |= {name: tensors[owner] for name, owner in two_way.TIED.items() if owner in tensors}
    fill_model(model, tensors, path)
    return model, two_way.PADDED.default(config)


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under transformers' names."""
    depths = _head_depths(state)
    return {_rename_one(name, depths): tensor for name, tensor in state.items()}


def config_of(state: Mapping[str, Tensor]) -> SamConfig:
    """The configuration that the shapes of Meta's tensors imply.

    The decoder's 8 heads are the one size that shapes do not tell; all released models have them.

    Raises:
        KeyError: a tensor that tells a size is missing.
        ValueError: sizes that no SAM has.
    """
    patch = state["image_encoder.patch_embed.proj.weight"]
    hidden, patch_size = patch.shape[0], patch.shape[-1]
    grid = state["image_encoder.pos_embed"].shape[1]
    depth = 1 + max(int(m[1]) for n in state if (m := re.match(r"image_encoder\.blocks\.(\d+)\.", n)))
    spans = [state[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape for i in range(depth)]
    global_spans = [i for i, span in enumerate(spans) if span[0] == 2 * grid - 1]
    windows = {(span[0] + 1) // 2 for i, span in enumerate(spans) if i not in global_spans}
    if len(windows) > 1:
        raise ValueError(f"window sizes differ between blocks: {sorted(windows)}")
    return SamConfig(
        vision_config={
            "hidden_size": hidden,
            "num_hidden_layers": depth,
            "num_attention_heads": hidden // spans[0][1],
            "global_attn_indexes": global_spans,
            "image_size": grid * patch_size,
            "patch_size": patch_size,
            "window_size": windows.pop() if windows else 0,
            "mlp_dim": state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
            "output_channels": state["image_encoder.neck.0.weight"].shape[0],
            "num_pos_feats": state["mask_decoder.iou_token.weight"].shape[1] // 2,
        },
        **decoder_parts(state, image_size=grid * patch_size, patch_size=patch_size),
    )


def decoder_parts(state: Mapping[str, Tensor], *, image_size: int, patch_size: int) -> dict[str, dict[str, int]]:
    """The configurations of prompt encoder and mask decoder that the shapes of Meta's tensors imply.

    Args:
        state: under Meta's names.
        image_size: pixels along a side of the input.
        patch_size: pixels for each place of the embedding.

    Raises:
        KeyError: a tensor that tells a size is missing.
    """
    width = state["mask_decoder.iou_token.weight"].shape[1]
    return {
        "prompt_encoder_config": {
            "hidden_size": width,
            "image_size": image_size,
            "patch_size": patch_size,
            "image_embedding_size": image_size // patch_size,
            "mask_input_channels": state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        },
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            "num_hidden_layers": 1 + max(int(m[1]) for n in state if (m := _TOKEN_LAYER.match(n))),
            "num_multimask_outputs": state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            "iou_head_hidden_dim": state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
            "iou_head_depth": _head_depths(state)["mask_decoder.iou_prediction_head"],
            "attention_downsample_rate": width
            // state["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"].shape[0],
        },
    }


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
