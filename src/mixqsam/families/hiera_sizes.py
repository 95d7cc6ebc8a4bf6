"""Sizes that a SAM 2 may have, so that a configuration from elsewhere cannot ask for a model without end."""

from collections.abc import Mapping, Sequence
from typing import Any

_MOST, _MOST_BLOCKS, _MOST_ENTRIES = 65_536, 512, 512
_PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")


def check_range(values: Mapping[str, Any], *, path: str = "") -> None:
    """Refuse numbers below zero or beyond any model, and lists without end, before anything is made of them.

    Args:
        values: of a `config.json`, or of a part of it.
        path: of the part.

    Raises:
        ValueError: the message names the entry.
    """
    for name, value in values.items():
        where = f"{path}.{name}" if path else name
        if name in {"id2label", "label2id", "quantization_config"}:
            continue
        if isinstance(value, Mapping):
            check_range(value, path=where)
        for number in _numbers(value):
            if not -1 <= number <= _MOST:
                raise ValueError(f"{where} is {number:.6g}, where a SAM has up to {_MOST}")
        if isinstance(value, list | tuple) and len(value) > _MOST_ENTRIES:
            raise ValueError(f"{where} has {len(value)} entries, where a SAM has at most {_MOST_ENTRIES}")


def _numbers(value: Any) -> Sequence[float]:
    if isinstance(value, list | tuple):
        return [number for one in value for number in _numbers(one)]
    return [value] if isinstance(value, int | float) else []


def config_of(values: Mapping[str, Any], kind: Any) -> Any:
    """The configuration of a `config.json`, its numbers within range.

    Raises:
        ValueError: an entry is beyond any model, or a part is not a list of sizes; the message names it.
    """
    for part in _PARTS:
        if not isinstance(values.get(part, {}), Mapping):
            raise ValueError(f"{part} is not a list of sizes")
    check_range(values)
    config = kind.from_dict({name: value for name, value in values.items() if name != "quantization_config"})
    if getattr(config.vision_config, "backbone_config", None) is None:
        raise ValueError("vision_config has no backbone_config; the vision_config is that of another model")
    return config


def check_hiera(values: Mapping[str, Any], kind: Any) -> None:
    """Refuse sizes that no SAM 2 has, or that do not fit each other.

    Args:
        values: of a `config.json`.
        kind: transformers' class of configurations.

    Raises:
        ValueError: the message names the entries.
    """
    config = config_of(values, kind)
    backbone = config.vision_config.backbone_config
    dims, stages = backbone.embed_dim_per_stage, len(backbone.blocks_per_stage)
    for name in ("embed_dim_per_stage", "num_attention_heads_per_stage", "window_size_per_stage"):
        if len(getattr(backbone, name)) != stages:
            raise ValueError(f"backbone_config.{name} has not an entry for each of the {stages} stages")
    if not 3 <= stages <= 8 or not 0 < sum(backbone.blocks_per_stage) <= _MOST_BLOCKS:
        raise ValueError(f"backbone_config.blocks_per_stage is {backbone.blocks_per_stage}; SAM 2 has 4 stages")
    for width, heads in zip(dims, backbone.num_attention_heads_per_stage, strict=True):
        if heads < 1 or width % heads:
            raise ValueError(f"backbone_config: {heads} heads do not divide {width} channels")
    _check_equal("vision_config.backbone_channel_list", config.vision_config.backbone_channel_list, dims[::-1])
    check_decoder(config)


def check_decoder(config: Any) -> None:
    """Refuse a prompt encoder or a mask decoder that does not fit the maps of the encoder.

    Raises:
        ValueError: the message names both entries and their values.
    """
    vision, prompts, decoder = (getattr(config, part) for part in _PARTS)
    if not isinstance(prompts.image_size, int) or not isinstance(prompts.patch_size, int) or prompts.patch_size < 1:
        raise ValueError("prompt_encoder_config.image_size and patch_size: expected one whole number each")
    side = prompts.image_size // prompts.patch_size
    sizes = [[times * side] * 2 for times in (4, 2, 1)]
    _check_equal("vision_config.backbone_feature_sizes", [list(one) for one in vision.backbone_feature_sizes], sizes)
    widths = (vision.fpn_hidden_size, prompts.hidden_size, decoder.hidden_size)
    if len(set(widths)) > 1:
        raise ValueError(f"fpn_hidden_size and the hidden_size of prompt encoder and mask decoder differ: {widths}")
    narrow = decoder.hidden_size // max(1, decoder.attention_downsample_rate)
    if decoder.num_attention_heads < 1 or narrow % decoder.num_attention_heads or decoder.hidden_size % 8:
        raise ValueError(
            f"mask_decoder_config: {decoder.num_attention_heads} heads do not divide {narrow} channels, or 8 does not "
            f"divide hidden_size ({decoder.hidden_size})"
        )


def _check_equal(name: str, value: Any, expected: Any) -> None:
    if list(value) != list(expected):
        raise ValueError(f"{name} is {value}, but the other sizes need {expected}")
