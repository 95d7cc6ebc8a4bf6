"""Nodes that stand for quantized modules while a model is traced.

A quantized layer, or an operand of a product, becomes one node of a domain of its own, which says only the unit's name.
So a trace never sees codes, grids or kernels, and `rewriting` writes the unit as the other graphs have it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mixqsam.numeric.modules import Product, StoredLayer
from mixqsam.sam.hooks import replace_method

DOMAIN = "mixqsam"
LAYER, OPERAND = "Layer", "Operand"
Shape = tuple[Any, ...]


@contextmanager
def placeholders(model: nn.Module) -> Iterator[None]:
    """While this is open, quantized modules of a model can be traced, and only that."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            for attribute, made in _replacements(name, module).items():
                replace_method(stack, module, attribute, made)
        yield


def _replacements(name: str, module: nn.Module) -> dict[str, Callable[..., Any]]:
    """Method → what it is while the model is traced."""
    if isinstance(module, StoredLayer):
        # The shape is asked for now: a weight cannot be unpacked while it is traced.
        return {"forward": partial(_layer, module, name, module.stored.shape), "kernel": _no_kernel}
    if isinstance(module, Product) and module.quantizers:
        return {"operand": partial(_operand, module, name)}
    return {}


def _layer(layer: Any, name: str, weight: Shape, values: Tensor) -> Tensor:
    return _node(LAYER, values, _shape_after(layer, weight, values), unit=name, rank=values.ndim)


def _operand(product: Product, name: str, which: str, values: Tensor) -> tuple[Tensor, float]:
    """An operand with its step in it; a float operand is left as it is."""
    if which not in product.quantizers:
        return values, 1.0
    return _node(OPERAND, values, tuple(values.shape), unit=name, operand=which), 1.0


def _no_kernel(values: Tensor) -> None:
    """For callers that would hand a layer's codes from one kernel to the next."""
    del values


def _node(kind: str, values: Tensor, shape: Shape, **attributes: Any) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{kind}", (values,), attributes, dtype=values.dtype, shape=shape, version=1
    )


def _shape_after(layer: Any, weight: Shape, values: Tensor) -> Shape:
    """Of what a layer with a weight of such a shape makes of such values."""
    if len(weight) == 2:
        return (*values.shape[:-1], weight[0])
    sides = [
        (side + 2 * int(pad) - dilation * (kernel - 1) - 1) // stride + 1
        for side, pad, dilation, kernel, stride in zip(
            values.shape[-2:], layer.padding, layer.dilation, weight[2:], layer.stride, strict=True
        )
    ]
    return (*values.shape[:-3], weight[0], *sides)
