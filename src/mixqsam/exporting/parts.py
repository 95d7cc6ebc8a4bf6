"""Layers cut out of others (rows of a linear, a convolution as a linear over patches), and operands on their way."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixqsam.exporting.graph import Graph
from mixqsam.exporting.layers import Layers
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.half import HalfTensor
from mixqsam.numeric.modules import QuantizedLinear, StoredLayer
from mixqsam.numeric.quantizers import Quantizer
from mixqsam.numeric.weights import QuantizedTensor

FLOAT: np.dtype[Any] = np.dtype(np.float32)


class Operand:
    """An operand of a product on its way there: codes where its quantizer is affine, values otherwise.

    Args:
        layers: where it is written.
        value: before its quantizer.
        quantizer: its quantizer, if any.
        unit: whose it is.
        together: keep quantizing and restoring together, as OpenVINO wants to see them; otherwise the codes are moved,
            which are a quarter as large.
        signed: move signed bytes; see `has_signed_right`.
    """

    def __init__(
        self,
        layers: Layers,
        value: str,
        quantizer: nn.Module,
        *,
        unit: str,
        together: bool,
        signed: bool = False,
    ) -> None:
        self._layers, self._signed = layers, signed
        self._quantizer = quantizer if isinstance(quantizer, Quantizer) and not together else None
        if self._quantizer is None:
            self.value, self.kind = layers.activation(value, quantizer, unit=unit), FLOAT
        else:
            self.value = layers.quantize(value, self._quantizer, signed=signed)
            self.kind = np.dtype(np.int8 if signed else np.uint8)

    def restore(self, graph: Graph, value: str, *, times: float = 1.0) -> str:
        """The values of (a slice of) it, times a factor."""
        if self._quantizer is not None:
            return self._layers.dequantize(value, self._quantizer, graph=graph, times=times, signed=self._signed)
        return value if times == 1 else graph.add("Mul", value, graph.constant(times))


def has_signed_right(left: nn.Module, right: nn.Module) -> bool:
    """Whether the right operand of a product is to be signed bytes, which ONNX Runtime multiplies faster.

    Processors without VNNI add pairs of these products in 16 bits: 2·(2^a − 1)·2^(b − 1) < 2^15 for a + b ≤ 15.
    """
    if not isinstance(left, Quantizer) or not isinstance(right, Quantizer):
        return False
    return left.bits + right.bits <= 15


def linear_rows(layer: Any, rows: Tensor) -> nn.Module:
    """The linear layer of some outputs of another."""
    return _linear(layer, rows)


def as_linear(convolution: Any) -> nn.Module:
    """A convolution with one group as a linear layer over patches, sorted by row, column and channel."""
    return _linear(convolution, None)


def _linear(layer: Any, rows: Tensor | None) -> nn.Module:
    chosen: Any = slice(None) if rows is None else rows
    bias = None if layer.bias is None else layer.bias.detach()[chosen]
    if isinstance(layer, StoredLayer):
        stored = layer.stored
        if isinstance(stored, HalfTensor):
            return QuantizedLinear(HalfTensor(_flat(stored.values)[chosen]), bias, layer.input)
        codes = _flat(stored.codes.reshape(stored.shape))[chosen]
        grid = AffineGrid(stored.grid.bits, stored.grid.scale[chosen], stored.grid.zero[chosen])
        return QuantizedLinear(QuantizedTensor(codes, grid, tuple(codes.shape)), bias, layer.input)
    weight = _flat(layer.weight.detach())[chosen]
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    return made


def _flat(weight: Tensor) -> Tensor:
    """[out, in, rows, columns] → [out, rows·columns·in]; a matrix as it is."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1) if weight.ndim == 4 else weight


def weight_shape(layer: Any) -> tuple[int, ...]:
    """Return [out, in], or [out, in / groups, rows, columns]; a packed layer has its shape in `stored` alone."""
    return tuple(layer.stored.shape if isinstance(layer, StoredLayer) else layer.weight.shape)


def thirds(layer: Any, width: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The layers of q, k and v, where the rows of one follow those of the other."""
    query, key, value = (linear_rows(layer, torch.arange(part * width, (part + 1) * width)) for part in range(3))
    return query, key, value
