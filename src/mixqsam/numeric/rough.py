"""Products whose last digits do not matter, such as those of estimates: in bfloat16 where that is faster."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

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
    return _multiply(short, right.bfloat16())


def roughen(operand: Tensor, *, columns: int) -> Tensor:
    """Round an operand once for several products, if `multiply_roughly` would; else return the operand itself.

    Args:
        operand: left operand of the products, of any shape.
        columns: of the right operand of each product.
    """
    return operand.bfloat16() if operand.device.type == "cpu" and is_rough(operand.numel() * columns) else operand


def apply_linear(module: nn.Linear, values: Tensor) -> Tensor:
    """Run a linear on its input [..., in]; a large product is made by `multiply_roughly`."""
    short = roughen(values, columns=module.out_features)
    if short is values:
        # The forward of the class: that of the instance may have called this function.
        out: Tensor = type(module).forward(module, values)
        return out
    products = multiply_roughly(short, module.weight.t())
    return products if module.bias is None else products.add_(module.bias)


def multiply_in_bfloat16(left: Tensor, right: Tensor) -> Tensor:
    """Multiply left [groups, n, k] by right [groups, k, m], whatever their size; the result is float32.

    Its gradients are products in bfloat16, too.
    """
    product: Tensor = _Short.apply(left, right)  # type: ignore[no-untyped-call]
    return product


class _Short(Function):
    """A product in bfloat16, and its gradients, which are products in bfloat16, too."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        short = left.bfloat16(), right.bfloat16()
        ctx.save_for_backward(*short)
        return _multiply(*short)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        short = gradient.bfloat16()
        of_left = _multiply(short, right.transpose(-2, -1))
        # In the layout of the right operand, a transposed k: adding up transposed pieces is slow.
        of_right = _multiply(short.transpose(-2, -1), left).transpose(-2, -1)
        return of_left, of_right


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """Multiply tensors of bfloat16; the result is float32."""
    if left.dim() == right.dim() == 3 and len(left) == len(right) == 1:
        # torch has a fast function for a transposed matrix, but none for a batch of one.
        left, right = left[0], right[0]
        product = left.new_empty(1, len(left), right.shape[1])
        torch.mm(left, right, out=product[0])
        return product.float()
    return (left @ right).float()


def is_rough(multiply_adds: int) -> bool:
    """Whether a product of so many multiply-adds is made in bfloat16 on this processor."""
    return multiply_adds >= _LARGE and _has_bfloat16()


@lru_cache(maxsize=1)
def _has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by itself; torch older than 2.10 does not say so."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
