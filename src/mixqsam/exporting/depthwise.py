"""Depthwise convolutions, whose input may have a grid for each channel.

A channel of a depthwise convolution meets only its own weights. So with steps s_c the input x_c/s_c lies on one grid of
step 1 for all channels, and s_c goes into the step of the channel's weight: the products are whole numbers of bytes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixqsam.exporting.arrays import Array, array
from mixqsam.exporting.layers import Layers
from mixqsam.numeric.modules import StoredLayer
from mixqsam.numeric.quantizers import AffineQuantizer
from mixqsam.numeric.weights import QuantizedTensor


@dataclass(frozen=True)
class _Steps:
    """The grid of an input, as arrays of one or of [channels] values.

    Attributes:
        bits: bit-width.
        scale: step of each channel.
        zero: zero point of each channel.
    """

    bits: int
    scale: Array
    zero: Array

    @classmethod
    def of(cls, quantizer: AffineQuantizer) -> "_Steps":
        grid = quantizer.grid
        return cls(grid.bits, array(grid.scale).reshape(-1), array(grid.zero).reshape(-1))

    @property
    def shared_zero(self) -> float | None:
        """The zero point of all channels; None where they have several."""
        return float(self.zero[0]) if (self.zero == self.zero[0]).all() else None


def write_depthwise(layers: Layers, value: str, layer: Any, *, unit: str, channels_last: bool) -> str:
    """A depthwise convolution of a map.

    Args:
        layers: where it is written.
        value: [1, h, w, C] where channels are last, otherwise [1, C, h, w].
        layer: quantized or float.
        unit: its name.
        channels_last: whether they are, in the input and in the output.

    Returns:
        The output, its channels where the input has them.
    """
    graph = layers.graph
    if not _is_integer(layer):
        maps = graph.transpose(value, 0, 3, 1, 2) if channels_last else value
        maps = layers.convolution(maps, layer, unit=unit)
        return graph.transpose(maps, 0, 2, 3, 1) if channels_last else maps
    write = _write_last if channels_last else _write_first
    return write(layers, value, layer, _Steps.of(layer.input), unit=unit)


def _is_integer(layer: Any) -> bool:
    """Whether a layer multiplies codes by codes."""
    if not isinstance(layer, StoredLayer):
        return False
    return isinstance(layer.input, AffineQuantizer) and isinstance(layer.stored, QuantizedTensor)


def _write_first(layers: Layers, value: str, layer: Any, steps: _Steps, *, unit: str) -> str:
    """With a grid for each channel as ONNX has them, which OpenVINO computes in whole numbers."""
    graph = layers.graph
    weight = layers.weight(layer.stored, unit=unit)
    if steps.scale.size == 1:
        return layers.convolved(layers.activation(value, layer.input, unit=unit), weight, layer)
    if steps.bits < 8:
        low, high = (((code - steps.zero) * steps.scale).reshape(1, -1, 1, 1) for code in (0, 2**steps.bits - 1))
        value = graph.add("Min", graph.add("Max", value, graph.constant(low)), graph.constant(high))
    grid = graph.constant(steps.scale), graph.constant(steps.zero, np.uint8)
    codes = graph.add("QuantizeLinear", value, *grid, axis=1)
    return layers.convolved(graph.add("DequantizeLinear", codes, *grid, axis=1), weight, layer)


def _write_last(layers: Layers, value: str, layer: Any, steps: _Steps, *, unit: str) -> str:
    """With one grid for all channels.

    The output stays in float. ONNX Runtime computes a convolution in whole numbers only if its output has a grid too.
    That grid would be one more rounding, which PyTorch does not have (docs/mobile-sam.md).
    """
    graph, single = layers.graph, steps.scale.size == 1
    codes, padded = _encode(layers, value, layer, steps)
    scale, zero = _scalars(steps)
    values = graph.add(
        "DequantizeLinear", graph.transpose(codes, 0, 3, 1, 2), graph.constant(scale), graph.constant(zero, np.uint8)
    )
    factors = np.ones_like(steps.scale) if single else steps.scale
    weight = layers.weight(layer.stored, unit=unit, times=factors)
    bias = _bias(layer, steps) if padded else None
    layers.float_units[unit] = "ONNX Runtime computes a convolution in whole numbers only if its output has a grid"
    return graph.transpose(layers.convolved(values, weight, layer, bias=bias, padded=padded), 0, 2, 3, 1)


def _scalars(steps: _Steps) -> tuple[float, int]:
    """Step and zero point of the bytes that meet the weight."""
    scale = float(steps.scale[0]) if steps.scale.size == 1 else 1.0
    return scale, 0 if steps.shared_zero is None else int(steps.shared_zero)


def _encode(layers: Layers, value: str, layer: Any, steps: _Steps) -> tuple[str, bool]:
    """Bytes of a map whose channels are last, and whether they are padded.

    Where channels have zero points of their own, bytes are counted from 0, so that the runtime's padding would be the
    lowest value of a channel: the border is written with the code that means zero there.
    """
    graph = layers.graph
    scale, zero = _scalars(steps)
    if steps.scale.size > 1:
        value = graph.add("Mul", value, graph.constant(1 / steps.scale))
    if steps.shared_zero is None:
        value = graph.add("Add", value, graph.constant(steps.zero))
    if steps.bits < 8:
        low, high = -zero * scale, (2**steps.bits - 1 - zero) * scale
        value = graph.add("Clip", value, graph.constant(low), graph.constant(high))
    codes = graph.add("QuantizeLinear", value, graph.constant(scale), graph.constant(zero, np.uint8))
    if steps.shared_zero is not None:
        return codes, False
    for axis, wide in ((1, int(layer.padding[0])), (2, int(layer.padding[1]))):
        codes = _bordered(layers, codes, steps, axis=axis, wide=wide)
    return codes, True


def _bordered(layers: Layers, codes: str, steps: _Steps, *, axis: int, wide: int) -> str:
    """Bytes with a border at both ends of an axis of [1, h, w, C]."""
    graph, ends = layers.graph, np.ones(4, np.int64)
    ends[axis] = wide
    other = 3 - axis
    around = graph.add("Slice", graph.add("Shape", codes), *(graph.constant([v], np.int64) for v in (other, other + 1)))
    parts = [graph.constant([v], np.int64) for v in ends]
    parts[other] = around
    zeros = graph.constant(steps.zero.reshape(1, 1, 1, -1), np.uint8)
    border = graph.add("Expand", zeros, graph.add("Concat", *parts, axis=0))
    return graph.add("Concat", border, codes, border, axis=axis)


def _bias(layer: StoredLayer, steps: _Steps) -> Array:
    """The bias less what the zero points add to every sum."""
    stored = layer.stored
    sums = array(stored.whole().flatten(1).sum(1)) * array(stored.scale.reshape(-1))
    less: Array = (_plain_bias(layer) - sums * steps.scale * steps.zero).astype(np.float32)
    return less


def _plain_bias(layer: StoredLayer) -> Array:
    return np.zeros(layer.stored.shape[0], np.float32) if layer.bias is None else array(layer.bias)
