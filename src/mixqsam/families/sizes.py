"""Sizes that a SAM may have, so that a configuration from elsewhere cannot ask for a model without end."""

from collections.abc import Mapping
from typing import Any

_PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
# SAM-H has 32 layers and no size above 5,120.
_MOST = 65_536
_MOST_LAYERS = 512
_LAYERS = ("num_hidden_layers", "iou_head_depth", "num_multimask_outputs")


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
            raise ValueError(f"{part} is no list of sizes")
        for name, value in entries.items():
            most = _MOST_LAYERS if name in _LAYERS else _MOST
            if isinstance(value, int | float) and not 0 <= value <= most:
                raise ValueError(f"{part}.{name} is {value:.6g}, where a SAM has 0 to {most}")
