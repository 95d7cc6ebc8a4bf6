"""Released layouts: MobileSAM's (the real one where it is to be had, random ones of any size), and SAM-HQ's."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.tiny import to_meta
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from mixqsam.errors import ModelError
from mixqsam.families.mobile_sam_config import MobileSamConfig
from mixqsam.families.mobile_sam_model import MobileSamModel
from mixqsam.sam.released import cached_release

_SIZES: dict[str, Any] = {
    "image_size": 96,
    "embed_dims": [8, 12, 16, 24],
    "depths": [1, 2, 1, 1],
    "num_heads": [2, 4, 3],
    "window_sizes": [5, 4, 7],
    "output_channels": 16,
    "num_pos_feats": 8,
}


# transformers' names of SAM-HQ → its project's, written down apart from the product's table.
_HQ = (
    (r"hq_token", "hf_token"),
    (r"hq_mask_mlp", "hf_mlp"),
    (r"compress_vit_conv1", "compress_vit_feat.0"),
    (r"compress_vit_norm", "compress_vit_feat.1"),
    (r"compress_vit_conv2", "compress_vit_feat.3"),
    (r"mask_decoder\.encoder_conv1", "mask_decoder.embedding_encoder.0"),
    (r"mask_decoder\.encoder_norm", "mask_decoder.embedding_encoder.1"),
    (r"mask_decoder\.encoder_conv2", "mask_decoder.embedding_encoder.3"),
    (r"mask_decoder\.mask_conv1", "mask_decoder.embedding_maskfeature.0"),
    (r"mask_decoder\.mask_norm", "mask_decoder.embedding_maskfeature.1"),
    (r"mask_decoder\.mask_conv2", "mask_decoder.embedding_maskfeature.3"),
)


@dataclass(frozen=True)
class Reference:
    """Answers of MobileSAM's own code.

    Attributes:
        calls: image, prompts and name of each.
        answers: arrays by name.
    """

    calls: list[dict[str, Any]]
    answers: dict[str, NDArray[Any]]


def shared_models() -> Path:
    """The folder of shared models, beside that of the shared data."""
    data = Path(os.environ.get("MIXQSAM_COCO") or Path(__file__).parents[3] / "shared/data/coco-mini")
    return data.parents[1] / "models"


def reference() -> Reference:
    """The shared answers; skips where they are not to be had."""
    folder = Path(os.environ.get("MIXQSAM_REFERENCE") or shared_models() / "mobile-sam")
    if not (folder / "reference.npz").is_file():
        pytest.skip(f"needs reference answers at $MIXQSAM_REFERENCE (looked at {folder})")
    with np.load(folder / "reference.npz") as arrays:
        return Reference(json.loads((folder / "reference.json").read_text()), dict(arrays))


def released_checkpoint() -> Path:
    """The released checkpoint in the cache; skips where it is not there."""
    try:
        path = cached_release("mobile-sam")
    except ModelError as error:
        pytest.skip(str(error))
    if path is None:
        pytest.skip("needs MobileSAM in the cache (scripts/get-mobile-sam)")
    return path


def tiny_config(**sizes: Any) -> MobileSamConfig:
    """A MobileSAM of the smallest sizes, with others where they are given."""
    vision = _SIZES | sizes
    image, patch = vision["image_size"], 16 if vision.get("patch_kernel", 3) == 3 else 4
    return MobileSamConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 16, "image_size": image, "patch_size": patch, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 24,
            "iou_head_hidden_dim": 16,
            "layer_norm_eps": 1e-5,
        },
    )


def random_mobile_sam(config: MobileSamConfig, *, seed: int = 0) -> MobileSamModel:
    """Weights of a size that makes every module matter."""
    torch.manual_seed(seed)
    model = MobileSamModel(config)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.5 if parameter.ndim < 2 else 1.2 / (parameter[0].numel() ** 0.5)
            parameter.copy_(torch.randn_like(parameter) * spread)
    model.tie_weights()
    return model


def to_released(model: PreTrainedModel, *, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of a model with a TinyViT as released, with random batch normalisations that undo themselves."""
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, tensor in to_meta(dict(model.state_dict())).items():
        released = name.replace(".mlp.lin", ".mlp.fc") if name.startswith("image_encoder.") else name
        released = released.replace("image_encoder.blocks.", "image_encoder.layers.").replace(
            ".mlp_norm.", ".mlp.norm."
        )
        released = released.replace("patch_embed.conv1", "patch_embed.seq.0")
        released = released.replace("patch_embed.conv2", "patch_embed.seq.2")
        found[released] = tensor
    for name in [n for n in found if is_convolution(n, found)]:
        place, weight = name.removesuffix(".weight"), found.pop(name)
        bias = found.pop(f"{place}.bias")
        gamma, mean = (torch.randn(len(bias), generator=draw) + 2 for _ in range(2))
        variance = torch.rand(len(bias), generator=draw) + 0.1
        factor = gamma / (variance + 1e-5).sqrt()
        found |= {
            f"{place}.c.weight": weight / factor.reshape(-1, 1, 1, 1),
            f"{place}.bn.weight": gamma,
            f"{place}.bn.bias": bias + mean * factor,
            f"{place}.bn.running_mean": mean,
            f"{place}.bn.running_var": variance,
            f"{place}.bn.num_batches_tracked": torch.tensor(7),
        }
    width = model.config.vision_config.hidden_size
    unused = {"norm_head.weight": (width,), "norm_head.bias": (width,), "head.weight": (5, width), "head.bias": (5,)}
    return found | {f"image_encoder.{name}": torch.zeros(shape) for name, shape in unused.items()}


def to_hq(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Meta's names of what SAM-HQ shares with SAM → the names of its project's checkpoints."""
    for pattern, replacement in _HQ:
        state = {re.sub(pattern, replacement, name): tensor for name, tensor in state.items()}
    return state


def is_convolution(name: str, state: dict[str, Tensor]) -> bool:
    """Whether a tensor is the weight of a convolution that a batch normalisation follows."""
    inside = name.startswith(("image_encoder.patch_embed.", "image_encoder.layers."))
    return inside and name.endswith(".weight") and state[name].ndim == 4
