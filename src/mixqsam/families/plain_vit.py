"""The encoder of SAM and SAM-HQ: a plain ViT with windows and decomposed relative positions, and its neck."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from mixqsam.families import two_way
from mixqsam.families.family import BlockPath, Resizing
from mixqsam.families.sizes import check_fit, check_sizes, check_vit
from mixqsam.numeric.attention import VisionAttention
from mixqsam.plan import Part, Role

_ENCODER, _NECK = "vision_encoder", "vision_encoder.neck"
ROLES: dict[str, Role] = two_way.ROLES | {"qkv": "query-key-value", "proj": "projection"}


def part(name: str) -> Part | None:
    """Layers and neck of the encoder, and the two-way transformer; patch and position embedding stay float."""
    if name.startswith((f"{_ENCODER}.layers.", f"{_NECK}.")):
        return "encoder"
    return two_way.decoder_part(name)


def block(name: str) -> str:
    """`0`, `1`, …, `neck`, or the decoder's."""
    if not name.startswith(f"{_ENCODER}."):
        return two_way.decoder_block(name)
    return next((part for part in name.split(".") if part.isdigit()), "neck")


def blocks(config: Any) -> Sequence[BlockPath]:
    """The encoder's layers, its neck, and the decoder's blocks."""
    vision = config.vision_config
    spans = vision.global_attn_indexes
    layers = [
        BlockPath(f"{_ENCODER}.layers.{index}", is_global=index in spans or vision.window_size == 0)
        for index in range(vision.num_hidden_layers)
    ]
    return [*layers, BlockPath(_NECK), *two_way.decoder_blocks(config)]


def check(kind: Any, values: Mapping[str, Any]) -> Any:
    """Refuse sizes that no such model has, or that do not fit each other; returns the configuration.

    Args:
        kind: transformers' class of configurations.
        values: of a `config.json`.

    Raises:
        ValueError: the message names the entry.
    """
    check_sizes(values)
    config = kind.from_dict({name: value for name, value in values.items() if name != "quantization_config"})
    check_fit(config)
    check_vit(config.vision_config)
    return config


def vision_attention(source: Any) -> VisionAttention:
    """The engine's attention with the weights of transformers'."""
    return VisionAttention(
        heads=source.num_attention_heads,
        scale=source.scale,
        qkv=source.qkv,
        proj=source.proj,
        positions=(source.rel_pos_h, source.rel_pos_w) if source.use_rel_pos else None,
    )


def unusual(config: Any) -> list[tuple[str, object]]:
    """Settings that tensors do not tell, where they are not the usual ones."""
    # The shape of absolute positions tells the size of the frame.
    return two_way.unusual(config, usual_size=None if config.vision_config.use_abs_pos else 1024)


def fit_positions(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Interpolate positions for a smaller map: absolute ones by bilinear, relative ones by linear interpolation.

    The relative ones are those that the attention itself interpolates (`get_rel_pos`). Meta's code and transformers'
    have no other size of the absolute ones. Fine-tuned SAMs of smaller frames (SAMed, arXiv 2304.13785; SAM-Med2D,
    arXiv 2308.16184) start from the bilinear ones.

    Args:
        tensor: absolute positions [1, h, w, C], or relative ones [2h - 1, C].
        shape: what it has to have.
    """
    if len(shape) == 2:
        return functional.interpolate(tensor.T[None], size=shape[0], mode="linear")[0].T.contiguous()
    maps = functional.interpolate(tensor.permute(0, 3, 1, 2), size=shape[1:3], mode="bilinear")
    return maps.permute(0, 2, 3, 1).contiguous()


RESIZING = Resizing(multiple=two_way.patch_size, configure=two_way.configure_size, fit=fit_positions)


def sample_vision() -> dict[str, Any]:
    """A layer with padded windows and a global one, on 3 × 3 patches."""
    return {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "global_attn_indexes": [1],
        "image_size": 48,
        "window_size": 2,
        "mlp_dim": 16,
        **two_way.SAMPLE_NECK,
    }
