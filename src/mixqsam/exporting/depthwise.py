"""Depthwise convolutions, whose input may have a grid for each channel.

A channel of a depthwise convolution meets only its own weights. So with steps s_c the input x_c/s_c lies on one grid of
step 1 for all channels, and s_c goes into the step of the channel's weight: the products are whole numbers of bytes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixqsam.exporting.arrays import Array, array
from mixqsam.exporting.graph import Graph
from mixqsam.exporting.layers import Layers
from mixqsam.numeric.modules import StoredLayer
from mixqsam.numeric.quantizers import AffineQuantizer
from mixqsam.numeric.weights import QuantizedTensor

_WHY_FLOAT = "ONNX Runtime computes a convolution in whole numbers only if its output has a grid"


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
    if channels_last:
        return _write_last(layers, value, layer, unit=unit)
    if not _is_integer(layer):
        return layers.convolution(value, layer, unit=unit)
    return _write_first(layers, value, layer, _Steps.of(layer.input), unit=unit)


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


def _write_last(layers: Layers, value: str, layer: Any, *, unit: str) -> str:
    """With one grid for all channels, of step 1 where they have several.

    The output stays in float. ONNX Runtime computes a convolution in whole numbers only if its output has a grid too.
    That grid would be one more rounding, which PyTorch does not have (docs/mobile-sam.md). The quantizer stands before
    the transposition, and the weight has no node for quantization: so ONNX Runtime computes in blocks of channels, and
    turns maps while it makes these blocks.
    """
    graph = layers.graph
    if not isinstance(layer, StoredLayer):
        return _turned_back(graph, layers.convolution(graph.transpose(value, 0, 3, 1, 2), layer, unit=unit))
    factors = None
    if isinstance(layer.input, AffineQuantizer) and layer.input.scale.numel() > 1:
        steps = _Steps.of(layer.input)
        value, factors = _write_steps(graph, value, steps), steps.scale
    else:
        value = layers.activation(value, layer.input, unit=unit)
    weight = layers.decoded(layer.stored, unit=unit, times=factors)
    layers.float_units.setdefault(unit, _WHY_FLOAT)
    return _turned_back(graph, layers.convolved(graph.transpose(value, 0, 3, 1, 2), weight, layer))


def _turned_back(graph: Graph, maps: str) -> str:
    return graph.transpose(maps, 0, 2, 3, 1)


def _write_steps(graph: Graph, value: str, steps: _Steps) -> str:
    """A map whose channels are last, in whole numbers of its channels' steps."""
    rounded = graph.add("Round", graph.add("Mul", value, graph.constant(1 / steps.scale)))
    low, high = graph.constant(-steps.zero), graph.constant(2**steps.bits - 1 - steps.zero)
    return graph.add("Min", graph.add("Max", rounded, low), high)
