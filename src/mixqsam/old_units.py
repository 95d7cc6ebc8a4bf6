"""Role, block and attention of units in analyses that were written before units had them.

All of those are of SAM, whose names say what a unit is. New files say it themselves; nothing else may use this.
"""

from typing import Any

_ROLES = {
    "qkv": "query-key-value",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "qk": "scores",
    "av": "mixing",
    "proj": "projection",
    "out_proj": "projection",
    "lin1": "mlp-in",
    "lin2": "mlp-out",
    "conv1": "convolution",
    "conv2": "convolution",
}
_OUTSIDE = ("mlp-in", "mlp-out", "convolution")


def describe_old_unit(name: str) -> dict[str, Any]:
    """What an old file leaves out of a unit.

    Raises:
        KeyError: no unit of SAM is called so.
    """
    parent, _, tail = name.rpartition(".")
    role = _ROLES[tail]
    number = next((part for part in name.split(".") if part.isdigit()), None)
    block = number or "neck" if name.startswith("vision_encoder.") else f"decoder {number or 'end'}"
    return {"role": role, "block": block, "attention": None if role in _OUTSIDE else parent}
