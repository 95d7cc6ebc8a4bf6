"""Role, block and attention of units in old analyses, which lack them.

All of those are of SAM, whose unit names imply the role. New files store it, so only readers of old files use this.
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
    """Find the fields of a unit that an old file lacks.

    Raises:
        KeyError: SAM has no unit of this name.
    """
    parent, _, tail = name.rpartition(".")
    role = _ROLES[tail]
    number = next((part for part in name.split(".") if part.isdigit()), None)
    block = number or "neck" if name.startswith("vision_encoder.") else f"decoder {number or 'end'}"
    return {"role": role, "block": block, "attention": None if role in _OUTSIDE else parent}
