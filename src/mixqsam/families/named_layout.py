"""Checkpoints under transformers' names without a `config.json`: the sizes come from the shapes of the tensors."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, SamConfig, SamModel

from mixqsam.errors import ModelError, shortened
from mixqsam.families import two_way
from mixqsam.families.checkpoint import fill_model, with_tied
from mixqsam.families.sizes import check_fit, check_vit

MARK = "vision_encoder.patch_embed.projection.weight"
_LAYER = re.compile(r"vision_encoder\.layers\.(\d+)\.")
_TOKEN_LAYER = re.compile(r"mask_decoder\.transformer\.layers\.(\d+)\.")
_HEAD_LAYER = re.compile(r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.weight")


def load_named(state: Mapping[str, Tensor], path: Path) -> tuple[SamModel, Any]:
    """The model and its image processor; `path` names the file in errors.

    Raises:
        ModelError: a tensor is missing, foreign or of another shape, or the sizes are those of no SAM; or the
            configuration lies beside the file, which knows what shapes do not say.
    """
    check_alone(path)
    return load_tensors(state, path)


def check_alone(path: Path) -> None:
    """Refuse a file with its configuration beside it.

    Raises:
        ModelError: the message names the directory.
    """
    if (path.parent / "config.json").is_file():
        raise ModelError(f"{path} has its config.json beside it; give the directory {path.parent} as the model.")


def load_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    norm_eps: float | None = None,
    kind: str = "SAM",
    make_config: Callable[[Mapping[str, Tensor]], Any] | None = None,
    model: type[PreTrainedModel] = SamModel,
) -> tuple[Any, Any]:
    """The model of tensors under transformers' names, and its image processor.

    Args:
        tensors: all of them; a tied one may be left out.
        path: names the file in errors.
        norm_eps: epsilon of the layer norms in the decoder's two-way blocks; None for transformers' default.
        kind: names the model in errors.
        make_config: tensors → configuration; SAM's if it is not given.
        model: transformers' class of models.

    Raises:
        ModelError: a tensor is missing, foreign or of another shape, or the sizes are those of no such model.
    """
    try:
        config = (make_config or config_of)(tensors)
        if norm_eps is not None:
            config.mask_decoder_config.layer_norm_eps = norm_eps
        check_fit(config)
        check_vit(config.vision_config)
        with torch.device("meta"):
            empty = model(config)
    except KeyError as error:
        raise ModelError(f"{path} is cut or is not a {kind}: the tensor {error} is missing.") from error
    except (ValueError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"{path} has tensors of sizes that no {kind} has: {shortened(error, most=300)}") from error
    fill_model(empty, with_tied(tensors, two_way.TIED, source=str(path)), path, kind=kind)
    return empty, two_way.PADDED.default(config)


def config_of(state: Mapping[str, Tensor]) -> SamConfig:
    """The configuration that the shapes of tensors under transformers' names imply; see `config_values`."""
    return SamConfig(**config_values(state))


def config_values(state: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The configurations of all three parts that the shapes of tensors under transformers' names imply.

    Shapes do not tell the number of heads in the decoder; all released models have 8.

    Raises:
        KeyError: a tensor that tells a size is missing.
        ValueError: sizes that no SAM has.
    """
    patch = state["vision_encoder.patch_embed.projection.weight"]
    hidden, patch_size = patch.shape[0], patch.shape[-1]
    grid = state["vision_encoder.pos_embed"].shape[1]
    depth = 1 + max((int(m[1]) for name in state if (m := _LAYER.match(name))), default=0)
    spans = [state[f"vision_encoder.layers.{i}.attn.rel_pos_h"].shape for i in range(depth)]
    global_spans = [i for i, span in enumerate(spans) if span[0] == 2 * grid - 1]
    windows = {(span[0] + 1) // 2 for i, span in enumerate(spans) if i not in global_spans}
    if len(windows) > 1:
        raise ValueError(f"window sizes differ between blocks: {sorted(windows)}")
    return {
        "vision_config": {
            "hidden_size": hidden,
            "num_channels": patch.shape[1],
            "num_hidden_layers": depth,
            "num_attention_heads": hidden // spans[0][1],
            "global_attn_indexes": global_spans,
            "image_size": grid * patch_size,
            "patch_size": patch_size,
            "window_size": windows.pop() if windows else 0,
            "mlp_dim": state["vision_encoder.layers.0.mlp.lin1.weight"].shape[0],
            "output_channels": state["vision_encoder.neck.conv1.weight"].shape[0],
            "num_pos_feats": state["mask_decoder.iou_token.weight"].shape[1] // 2,
        },
        **decoder_parts(state, image_size=grid * patch_size, patch_size=patch_size),
    }


def decoder_parts(state: Mapping[str, Tensor], *, image_size: int, patch_size: int) -> dict[str, dict[str, int]]:
    """The configurations of prompt encoder and mask decoder that the shapes of their tensors imply.

    Args:
        state: under transformers' names.
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
            "mask_input_channels": state["prompt_encoder.mask_embed.conv2.weight"].shape[0],
        },
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            "num_hidden_layers": 1 + max((int(m[1]) for name in state if (m := _TOKEN_LAYER.match(name))), default=0),
            "num_multimask_outputs": state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            "iou_head_hidden_dim": state["mask_decoder.iou_prediction_head.proj_in.weight"].shape[0],
            "iou_head_depth": 2 + sum(1 for name in state if _HEAD_LAYER.fullmatch(name)),
            "attention_downsample_rate": width
            // state["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"].shape[0],
        },
    }
