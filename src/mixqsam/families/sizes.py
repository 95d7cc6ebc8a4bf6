"""Sizes that a SAM may have, so that a configuration from elsewhere cannot ask for a model without end."""

from collections.abc import Iterable, Mapping
from typing import Any

from transformers.activations import ACT2FN

_PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
# SAM-H has 32 layers and no size above 5,120.
_MOST = 65_536
_MOST_LAYERS = 512
_LAYERS = ("num_hidden_layers", "iou_head_depth", "num_multimask_outputs")
_WHOLE = frozenset(
    {
        *_LAYERS,
        "attention_downsample_rate",
        "hidden_size",
        "image_size",
        "iou_head_hidden_dim",
        "mask_input_channels",
        "mlp_dim",
        "num_attention_heads",
        "num_channels",
        "num_point_embeddings",
        "num_pos_feats",
        "output_channels",
        "patch_size",
        "window_size",
    }
)
# transformers derives it where it is left out, or has no window.
_MAY_BE_NONE = ("mlp_dim",)
_MAY_BE_ZERO = ("window_size",)
# Two kinds of points and two corners of boxes.
_POINT_EMBEDDINGS = 4


def check_sizes(values: Mapping[str, Any]) -> None:
    """Refuse sizes below zero or beyond any SAM, before anything is made of them.

    Args:
        values: of a `config.json`.

    Raises:
        ValueError: the message names the entry.
    """
    for part in _PARTS:
        entries = values.get(part, {})
        if not isinstance(entries, Mapping):
            raise ValueError(f"{part} is not a list of sizes")
        for name, value in entries.items():
            most = _MOST_LAYERS if name in _LAYERS else _MOST
            if isinstance(value, int | float) and not 0 <= value <= most:
                raise ValueError(f"{part}.{name} is {value:.6g}, where a SAM has 0 to {most}")
            _check_type(f"{part}.{name}", name, value)


def _check_type(path: str, name: str, value: Any) -> None:
    if name == "hidden_act" and (not isinstance(value, str) or value not in ACT2FN):
        raise ValueError(f"{path} is {value!r:.60}, which transformers does not know")
    if name not in _WHOLE or (value is None and name in _MAY_BE_NONE):
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{path} is {value!r:.60}; expected one whole number")
    if value == 0 and name not in _MAY_BE_ZERO:
        raise ValueError(f"{path} is 0; expected at least 1")


def check_fit(config: Any) -> None:
    """Refuse a configuration whose prompt encoder or mask decoder does not fit its image encoder.

    Args:
        config: of any family whose three parts are named as SAM's.

    Raises:
        ValueError: the message names both entries and their values.
    """
    vision, prompts, decoder = (getattr(config, part) for part in _PARTS)
    grid = f"vision_config.image_size/patch_size is {vision.image_size}/{vision.patch_size}"
    if vision.image_size % vision.patch_size:
        raise ValueError(f"{grid}, which is not a whole number of patches")
    _check_equal("vision_config.image_size", vision.image_size, "prompt_encoder_config.image_size", prompts.image_size)
    if vision.image_size // vision.patch_size != prompts.image_embedding_size:
        raise ValueError(
            f"{grid}, but prompt_encoder_config.image_embedding_size (image_size/patch_size) is "
            f"{prompts.image_embedding_size}"
        )
    _check_equal("vision_config.output_channels", vision.output_channels, *_hidden("prompt_encoder_config", prompts))
    _check_equal("mask_decoder_config.hidden_size", decoder.hidden_size, *_hidden("prompt_encoder_config", prompts))
    _check_equal("2·vision_config.num_pos_feats", 2 * vision.num_pos_feats, *_hidden("prompt_encoder_config", prompts))
    if vision.num_channels != 3:
        raise ValueError(f"vision_config.num_channels is {vision.num_channels}; images have 3 (RGB)")
    _check_prompts(prompts)
    _check_decoder(decoder)


def check_vit(vision: Any) -> None:
    """Refuse a ViT whose heads do not divide its width.

    Raises:
        ValueError: the message names both entries and their values.
    """
    _check_divides("vision_config.num_attention_heads", vision.num_attention_heads, *_hidden("vision_config", vision))


def _check_prompts(prompts: Any) -> None:
    if prompts.num_point_embeddings < _POINT_EMBEDDINGS:
        raise ValueError(
            f"prompt_encoder_config.num_point_embeddings is {prompts.num_point_embeddings}; points and boxes need 4"
        )
    name = "prompt_encoder_config.mask_input_channels"
    _check_divides("4", 4, name, prompts.mask_input_channels)


def _check_decoder(decoder: Any) -> None:
    part = "mask_decoder_config"
    rate, heads = decoder.attention_downsample_rate, decoder.num_attention_heads
    _check_divides("8", 8, *_hidden(part, decoder))
    _check_divides(f"{part}.attention_downsample_rate", rate, *_hidden(part, decoder))
    _check_divides(f"{part}.num_attention_heads", heads, *_hidden(part, decoder))
    narrow = f"{part}.hidden_size/attention_downsample_rate"
    _check_divides(f"{part}.num_attention_heads", heads, narrow, decoder.hidden_size // rate)


def _hidden(part: str, config: Any) -> tuple[str, int]:
    return f"{part}.hidden_size", config.hidden_size


def _check_equal(name: str, value: int, other: str, expected: int) -> None:
    if value != expected:
        raise ValueError(f"{name} is {value}, but {other} is {expected}; they have to be the same")


def _check_divides(name: str, value: int, other: str, whole: int) -> None:
    if whole % value:
        said = name if name.isdigit() else f"{name} ({value})"
        raise ValueError(f"{other} is {whole}, which {said} does not divide")


def names_of(items: Iterable[str], *, most: int = 3) -> str:
    """The first of some names for a message, and how many more there are."""
    names = sorted(items)
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
