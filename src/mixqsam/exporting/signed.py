"""Products of two activations in whole numbers as OpenVINO wants them: of signed bytes without a zero point.

With 8 bits, x̂ = s·(c − z) is written as x' + δ, where x' = s·(c − 128) has signed bytes and δ = s·(128 − z). With fewer
bits, c − z is a signed byte itself, and δ = 0. An attention then adds what its products lack:

    Σ (q' + δq)·(k' + δk) = Σ q'·k' + δq·Σ k' + what all keys of a query share, which softmax ignores
    Σ a·(v' + δv)         = Σ a·v' + δv·Σ a

Σ a comes out of the same product, where v has a constant channel more.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mixqsam.exporting.graph import Graph
from mixqsam.exporting.layers import Layers
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.modules import QuantizedLinear, StoredLayer
from mixqsam.numeric.quantizers import Quantizer
from mixqsam.numeric.weights import QuantizedTensor

# The signed byte of the constant channel.
_UNIT = 64


@dataclass
class Signed:
    """An activation behind its quantizer, on its way to a product.

    Attributes:
        value: x', whose codes are signed bytes.
        offset: δ, which it lacks.
        step: s.
    """

    value: str
    offset: float
    step: float

    def restored(self, graph: Graph) -> str:
        """The whole value, x' + δ."""
        return graph.add("Add", self.value, graph.constant(self.offset)) if self.offset else self.value


def has_signed_products(attention: Any) -> bool:
    """Whether both products can be written so: each operand has one affine grid, and the weights have codes."""
    sides = (attention.qk.left, attention.qk.right, attention.av.left, attention.av.right)
    if not all(isinstance(side, Quantizer) for side in sides) or float(attention.av.left.zero):
        return False
    return isinstance(attention.qkv, StoredLayer) and isinstance(attention.qkv.stored, QuantizedTensor)


def write_signed(layers: Layers, value: str, quantizer: Any) -> Signed:
    """An activation through its affine quantizer, as signed bytes."""
    graph, zero, step, bits = layers.graph, int(quantizer.zero), quantizer.step, quantizer.bits
    if bits < 8:
        low, high = (graph.constant(code * step) for code in (-zero, 2**bits - 1 - zero))
        value = graph.add("Clip", value, low, high)
    scale, start = graph.constant(step), graph.constant(zero - 128 if bits == 8 else 0, np.int8)
    codes = graph.add("QuantizeLinear", value, scale, start)
    return Signed(graph.add("DequantizeLinear", codes, scale, graph.constant(0, np.int8)), _offset(quantizer), step)


def _offset(quantizer: Any) -> float:
    return float(quantizer.step * (128 - float(quantizer.zero))) if quantizer.bits == 8 else 0.0


def with_constants(layer: Any, quantizer: Any, *, heads: int) -> Any:
    """The projection of v with a constant channel behind each head's; the layer itself where v lacks nothing.

    Args:
        layer: quantized, [in] → [heads·c].
        quantizer: of v.
        heads: their number.

    Returns:
        [in] → [heads·(c + 1)].
    """
    offset = _offset(quantizer)
    if not offset:
        return layer
    stored, grid = layer.stored, layer.stored.grid
    scale, zero = (part.reshape(heads, -1, 1) for part in (grid.scale, grid.zero))
    codes = stored.codes.reshape(heads, -1, stored.shape[1])
    # Codes at their zero point are weights of 0.
    nothing = zero[:, :1].to(codes.dtype).expand(-1, 1, codes.shape[2])
    codes = torch.cat([codes, nothing], 1).flatten(0, 1)
    grid = AffineGrid(grid.bits, *(torch.cat([part, part[:, :1]], 1).reshape(-1, 1) for part in (scale, zero)))
    bias = torch.zeros(scale.shape) if layer.bias is None else layer.bias.detach().reshape(scale.shape)
    constants = torch.full((heads, 1, 1), _UNIT * quantizer.step + offset)
    bias = nn.Parameter(torch.cat([bias, constants], 1).reshape(-1), requires_grad=False)
    return QuantizedLinear(QuantizedTensor(codes, grid, tuple(codes.shape)), bias, layer.input)


def mix_signed(
    layers: Layers, operands: tuple[Signed, Signed, Signed], attention: Any, mask: str | None, *, unit: str
) -> str:
    """The values that an attention mixes.

    Args:
        layers: where it is written.
        operands: q [groups, heads, n, c], kᵀ [groups, heads, c, m], and v of a layer `with_constants`.
        attention: has the scale, and the quantizer of the weights.
        mask: that is added to the logits, [groups, heads, n, m] but for axes of 1.
        unit: the attention.

    Returns:
        [groups, heads, n, c].
    """
    graph = layers.graph
    queries, keys, values = operands
    logits = _write_logits(graph, queries, keys, scale=attention.scale)
    if mask is not None:
        logits = graph.add("Add", logits, mask)
    weights = layers.activation(graph.add("Softmax", logits, axis=-1), attention.av.left, unit=f"{unit}.av")
    return _write_mixed(graph, weights, values)


def _write_logits(graph: Graph, queries: Signed, keys: Signed, *, scale: float) -> str:
    """Logits but for a number that all keys of a query share."""
    logits = graph.add("MatMul", graph.add("Mul", queries.value, graph.constant(scale)), keys.value)
    if not queries.offset:
        return logits
    sums = graph.add("ReduceSum", keys.value, graph.constant([2], np.int64), keepdims=1)
    return graph.add("Add", logits, graph.add("Mul", sums, graph.constant(scale * queries.offset)))


def _write_mixed(graph: Graph, weights: str, values: Signed) -> str:
    mixed = graph.add("MatMul", weights, values.value)
    if not values.offset:
        return mixed
    axis, last = graph.constant([3], np.int64), graph.constant([-1], np.int64)
    sums = graph.add("Slice", mixed, last, graph.constant([np.iinfo(np.int64).max], np.int64), axis)
    mixed = graph.add("Slice", mixed, graph.constant([0], np.int64), last, axis)
    return graph.add("Add", mixed, graph.add("Mul", sums, graph.constant(values.offset / (_UNIT * values.step))))
