"""Meta's original checkpoints of SAM 2 and 2.1 (`sam2.1_hiera_tiny.pt` and their kin) → transformers' names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Sam2Config, Sam2Model

from mixqsam.errors import ModelError, shortened
from mixqsam.families.checkpoint import fill_model, tell_left_out
from mixqsam.families.square import SquareProcessor

MARK = "image_encoder.trunk.patch_embed.proj.weight"
# Starts of the names of what only videos need, under Meta's names and under transformers'.
VIDEO = (
    "memory_attention.",
    "memory_encoder.",
    "memory_temporal_positional_encoding",
    "mask_downsample.",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_memory_positional_encoding",
    "no_obj",
    "obj_ptr_",
    "object_pointer_proj.",
    "occlusion_spatial_embedding_parameter",
    "temporal_positional_encoding_projection_layer.",
)
# Channels of the first stage and blocks of each → heads of the first stage, windows, blocks with global attention:
# shapes do not tell these. They double from stage to stage (the configurations in Meta's repository).
SIZES: dict[tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    (96, (1, 2, 7, 2)): (1, (8, 4, 14, 7), (5, 7, 9)),
    (96, (1, 2, 11, 2)): (1, (8, 4, 14, 7), (7, 10, 13)),
    (112, (2, 3, 16, 3)): (2, (8, 4, 14, 7), (12, 16, 20)),
    (144, (2, 6, 36, 4)): (2, (8, 4, 16, 8), (23, 33, 43)),
}
_RENAMES = (
    (r"^image_encoder\.trunk\.patch_embed\.proj\.", "vision_encoder.backbone.patch_embed.projection."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.out_proj\.", ".o_proj."),
)
_MLP = re.compile(r"^(.+)\.layers\.(\d+)\.(weight|bias)$")
_POINT = "sam_prompt_encoder.point_embeddings."
_BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.norm1\.weight")


def load_released(state: Mapping[str, Tensor], path: Path) -> tuple[Sam2Model, SquareProcessor]:
    """The image model of a checkpoint, and its image processor; `path` names the file in messages.

    Raises:
        ModelError: a tensor is missing, foreign or of another shape, or the sizes are those of no released SAM 2.
    """
    video = [name for name in state if name.startswith(VIDEO)]
    image = {name: tensor for name, tensor in state.items() if name not in set(video)}
    try:
        config = Sam2Config(**config_values(image))
        with torch.device("meta"):
            model = Sam2Model(config)
        tensors = rename(image)
    except KeyError as error:
        raise ModelError(f"{path} is cut or is not a SAM 2: the tensor {error} is missing.") from error
    except (ValueError, TypeError, IndexError, RuntimeError, ArithmeticError) as error:
        raise ModelError(f"{path} has tensors of sizes that no SAM 2 has: {shortened(error, most=300)}") from error
    fill_model(model, tensors, path, kind="SAM 2")
    tell_left_out(path, video, title="SAM 2 for videos")
    side = config.prompt_encoder_config.image_size
    return model.eval(), SquareProcessor(size={"height": side, "width": side})


def config_values(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configurations of all three parts that the shapes imply.

    Raises:
        KeyError: a tensor that tells a size is missing.
        ValueError: sizes that no released SAM 2 has.
    """
    trunk = "image_encoder.trunk"
    count = sum(1 for name in state if _BLOCK.fullmatch(name))
    widths = [state[f"{trunk}.blocks.{index}.norm2.weight"].shape[0] for index in range(count)]
    dims = list(dict.fromkeys(widths))
    depths = tuple(widths.count(width) for width in dims)
    if (dims[0], depths) not in SIZES:
        known = ", ".join(f"{width} channels and {list(blocks)} blocks" for width, blocks in SIZES)
        raise ValueError(
            f"{dims[0]} channels and {list(depths)} blocks; known are {known}. Give transformers' directory of it."
        )
    heads, windows, spans = SIZES[dims[0], depths]
    width = state["sam_mask_decoder.iou_token.weight"].shape[1]
    narrow = state["sam_mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"].shape[0]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": dims[0],
        "num_attention_heads": heads,
        "embed_dim_per_stage": dims,
        "blocks_per_stage": list(depths),
        "num_attention_heads_per_stage": [heads << stage for stage in range(len(dims))],
        "window_size_per_stage": list(windows),
        "global_attention_blocks": list(spans),
        "window_positional_embedding_background_size": list(state[f"{trunk}.pos_embed"].shape[-2:]),
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": dims[::-1],
        "fpn_hidden_size": state["image_encoder.neck.convs.0.conv.weight"].shape[0],
    }
    return {
        "vision_config": vision,
        "prompt_encoder_config": {
            "hidden_size": width,
            "mask_input_channels": state["sam_prompt_encoder.mask_downscaling.3.weight"].shape[0],
        },
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": state["sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight"].shape[0],
            "iou_head_hidden_dim": state["sam_mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
            "num_multimask_outputs": state["sam_mask_decoder.mask_tokens.weight"].shape[0] - 1,
            "attention_downsample_rate": width // narrow,
        },
    }


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under transformers' names; the embeddings of points become one table.

    Raises:
        KeyError: one of those embeddings is missing.
    """
    depths: dict[str, int] = {}
    for name in state:
        if match := _MLP.match(name):
            depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    points = sorted(name for name in state if name.startswith(_POINT))
    found = {_rename_one(name, depths): tensor for name, tensor in state.items() if name not in points}
    rows = [state[f"{_POINT}{index}.weight"] for index in range(len(points))]
    found["prompt_encoder.point_embed.weight"] = torch.cat(rows)
    # transformers keeps this table twice.
    positions = found.get("prompt_encoder.shared_embedding.positional_embedding")
    if positions is not None:
        found["shared_image_embedding.positional_embedding"] = positions.clone()
    return found


def _rename_one(name: str, depths: Mapping[str, int]) -> str:
    if match := _MLP.match(name):
        index, last = int(match[2]), depths[match[1]] - 1
        place = "proj_in" if index == 0 else "proj_out" if index == last else f"layers.{index - 1}"
        name = f"{match[1]}.{place}.{match[3]}"
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
