"""Products whose last digits do not matter, such as those of estimates: in bfloat16 where that is faster."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Multiply-adds from which on a product takes time that matters: layers of SAM-B at 1024 pixels have 2.4 to 10 billion.
_LARGE = 1 << 31


def multiply_roughly(left: Tensor, right: Tensor) -> Tensor:
    """Multiply left [..., n, k] by right [..., k, m]; the result is float32.

    Operands may be what `roughen` gives. Those of a large product are rounded to bfloat16 (8 binary digits) where the
    processor has instructions for it, and so is the result. The norm of the error is below 1% of the product's norm.
    """
    short = roughen(left, columns=right.shape[-1])
    if short is left and left.dtype == right.dtype:
        return left @ right
    return (short @ right.bfloat16()).float()


def roughen(operand: Tensor, *, columns: int) -> Tensor:
    """Round an operand once for several products, if `multiply_roughly` would; else return the operand itself.

    Args:
        operand: left operand of the products, of any shape.
        columns: of the right operand of each product.
    """
    return operand.bfloat16() if operand.device.type == "cpu" and is_rough(operand.numel() * columns) else operand


def is_rough(multiply_adds: int) -> bool:
    """Whether a product of so many multiply-adds is made in bfloat16 on this processor."""
    return multiply_adds >= _LARGE and _has_bfloat16()


@lru_cache(maxsize=1)
def _has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by itself; torch older than 2.10 does not say so."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
