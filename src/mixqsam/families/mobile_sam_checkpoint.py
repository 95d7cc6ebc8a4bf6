"""Released checkpoints with MobileSAM's encoder (`mobile_sam.pt`, `sam_hq_vit_tiny.pth` and those of fine-tuners).

Their tensors get our names, shapes and sizes.
"""

import re
from collections.abc import Callable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mixqsam.errors import ModelError
from mixqsam.families.checkpoint import fill_model
from mixqsam.families.meta_layout import TWO_WAY_EPS, rename
from mixqsam.families.mobile_sam_config import total_stride
from mixqsam.families.named_layout import decoder_parts

MARK = "image_encoder.patch_embed.seq.0.c.weight"
_PREFIX = re.compile(r"(?:(?:module|sam|model)\.)*")
# The classifier that TinyViT was trained with: in the file, but not part of the encoder.
_UNUSED = re.compile(r"image_encoder\.(?:head|norm_head)\.(?:weight|bias)")
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
_BATCH_NORM_EPS = 1e-5
_RENAMES = (
    (r"^vision_encoder\.patch_embed\.seq\.0\.", "vision_encoder.patch_embed.conv1."),
    (r"^vision_encoder\.patch_embed\.seq\.2\.", "vision_encoder.patch_embed.conv2."),
    (r"^(vision_encoder\.layers\.\d+\.blocks\.\d+\.mlp)\.fc(\d)\.", r"\1.lin\2."),
    (r"^(vision_encoder\.layers\.\d+\.blocks\.\d+\.mlp)\.norm\.", r"\1_norm."),
)
# The prompt encoder shares this table with the model; a released checkpoint holds it once.
_SHARED = "prompt_encoder.shared_embedding.positional_embedding"
# Places along a side of the embedding in all released models.
_PLACES = 64


def without_prefix(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors under the released names, without the prefix that training code puts before them.

    Raises:
        ModelError: they have another layout, or a prefix that training code is not known to write.
    """
    mark = next((name for name in state if name.endswith(MARK)), None)
    if mark is None:
        raise ModelError(f"{path} does not have MobileSAM's layout: it holds no tensor {MARK}.")
    prefix = mark.removesuffix(MARK)
    outside = sorted(name for name in state if not name.startswith(prefix))
    if not _PREFIX.fullmatch(prefix) or outside:
        raise ModelError(f"{path} has foreign tensors, e.g. {(outside or [mark])[0]}; expected {MARK} and its kin.")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def fill_released(
    state: Mapping[str, Tensor],
    path: Path,
    *,
    kind: str,
    make_config: Callable[[Mapping[str, Tensor]], Any],
    model: type[PreTrainedModel],
) -> Any:
    """The model of tensors under the released names, in evaluation mode, its batch normalisations folded.

    Args:
        state: all tensors, without a prefix.
        path: names the file in errors.
        kind: names the model in errors.
        make_config: tensors → configuration.
        model: class of models.

    Raises:
        ModelError: a tensor is missing, foreign or of another shape, or the sizes are those of no such model.
    """
    try:
        config = make_config(state)
        with torch.device("meta"):
            empty = model(config)
    except KeyError as error:
        raise ModelError(f"{path} is cut or is not a {kind}: the tensor {error} is missing.") from error
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise ModelError(f"{path} has tensors of sizes that no {kind} has: {error}.") from error
    fill_model(empty, _convert(state, path=path), path, kind=kind)
    return empty.eval()


def config_values(state: Mapping[str, Tensor], *, image_size: int | None = None) -> dict[str, Any]:
    """What the shapes imply of a `MobileSamConfig`, or of what light SAM-HQ shares with it.

    Shapes do not show the decoder's 8 heads and the strides; all released models have the same.

    Args:
        state: under the released names.
        image_size: pixels along a side of the input; None for that of the released models.

    Raises:
        KeyError: a tensor that tells a size is missing.
        ValueError: sizes that no such model has.
    """
    shapes = {name: tensor.shape for name, tensor in state.items()}
    stages = len(_indices(state, "image_encoder.layers."))
    biases = [shapes[f"image_encoder.layers.{i}.blocks.0.attn.attention_biases"] for i in range(1, stages)]
    widths = [shapes[f"image_encoder.layers.{i}.downsample.conv3.c.weight"][0] for i in range(stages - 1)]
    first, *_, patch_kernel = shapes["image_encoder.patch_embed.seq.2.c.weight"]
    expanded = shapes["image_encoder.layers.0.blocks.0.conv1.c.weight"]
    hidden = shapes["image_encoder.layers.1.blocks.0.mlp.fc1.weight"]
    stride = total_stride(patch_kernel=patch_kernel, stages=stages)
    pixels = image_size or _PLACES * stride
    vision = {
        "image_size": pixels,
        "num_channels": shapes[MARK][1],
        "patch_kernel": patch_kernel,
        "embed_dims": [first, *widths],
        "depths": [len(_indices(state, f"image_encoder.layers.{i}.blocks.")) for i in range(stages)],
        "num_heads": [heads for heads, _ in biases],
        "window_sizes": [_window(offsets) for _, offsets in biases],
        "expansion": expanded[0] / expanded[1],
        "mlp_ratio": hidden[0] / hidden[1],
        "local_kernel": shapes["image_encoder.layers.1.blocks.0.local_conv.c.weight"][-1],
        "output_channels": shapes["image_encoder.neck.0.weight"][0],
        "num_pos_feats": shapes["mask_decoder.iou_token.weight"][1] // 2,
    }
    parts = decoder_parts(rename(state), image_size=pixels, patch_size=stride)
    return {
        "vision_config": vision,
        "prompt_encoder_config": parts["prompt_encoder_config"],
        "mask_decoder_config": {**parts["mask_decoder_config"], "layer_norm_eps": TWO_WAY_EPS},
    }


def _indices(names: Mapping[str, Any], start: str) -> set[str]:
    """What follows `start` in names, up to the next dot."""
    return {name.removeprefix(start).split(".")[0] for name in names if name.startswith(start)}


def _window(offsets: int) -> int:
    side = isqrt(offsets)
    if side * side != offsets:
        raise ValueError(f"{offsets} attention biases a head, which is not the square of a window's side")
    return side


def _convert(state: Mapping[str, Tensor], *, path: Path) -> dict[str, Tensor]:
    """The tensors of our model, float32: batch normalisations folded, renamed, without the unused classifier.

    Raises:
        ModelError: a batch normalisation lacks a tensor.
    """
    rest = {name: tensor for name, tensor in state.items() if not _UNUSED.fullmatch(name)}
    folded: dict[str, Tensor] = {}
    for name in [n for n in rest if n.startswith("image_encoder.") and n.endswith(".c.weight")]:
        place = name.removesuffix(".c.weight")
        rest.pop(f"{place}.bn.num_batches_tracked", None)
        try:
            norm = [rest.pop(f"{place}.bn.{part}") for part in _BATCH_NORM]
        except KeyError as error:
            raise ModelError(f"{path} is cut: the tensor {error} is missing.") from error
        if any(part.shape != rest[name].shape[:1] for part in norm):
            raise ModelError(f"{path}: the tensors of {place}.bn do not have the shape {tuple(rest[name].shape[:1])}.")
        folded[f"{place}.weight"], folded[f"{place}.bias"] = fold(rest.pop(name), norm)
    tensors = {_our_name(name): tensor.float() for name, tensor in rename({**rest, **folded}).items()}
    if (table := tensors.get("shared_image_embedding.positional_embedding")) is not None:
        tensors[_SHARED] = table
    return tensors


def fold(weight: Tensor, norm: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the batch normalisation after it (γ, β, μ, σ² in evaluation mode).

    w·γ/√(σ²+ε) and β − μγ/√(σ²+ε), computed in float64.
    """
    gamma, beta, mean, variance = (part.double() for part in norm)
    factor = gamma / (variance + _BATCH_NORM_EPS).sqrt()
    return (weight.double() * factor.reshape(-1, 1, 1, 1)).float(), (beta - mean * factor).float()


def _our_name(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
