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
from mixqsam.exporting.strips import Strip
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
        return LastDepthwise(layers, layer, unit=unit).write(value)
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


class LastDepthwise:
    """A depthwise convolution of maps whose channels are last, written once for several strips of rows.

    Its input has one grid for all channels, of step −1 where they have several; the weight has the other signs, too.

    The output stays in float. ONNX Runtime computes a convolution in whole numbers only if its output has a grid too.
    That grid would be one more rounding, which PyTorch does not have (docs/mobile-sam.md). The quantizer stands before
    the transposition, and the weight has no node for quantization: so ONNX Runtime computes in blocks of channels, and
    turns maps while it makes these blocks.

    Args:
        layers: where it is written.
        layer: quantized or float.
        unit: its name.
    """

    def __init__(self, layers: Layers, layer: Any, *, unit: str) -> None:
        self._layers, self._layer, self._unit = layers, layer, unit
        self._bias = None if layer.bias is None else layers.graph.constant(array(layer.bias))
        self._steps: _Steps | None = None
        if not isinstance(layer, StoredLayer):
            self._weight = layers.tensor(f"{unit}.weight", layer.weight)
            return
        if isinstance(layer.input, AffineQuantizer) and layer.input.scale.numel() > 1:
            self._steps = _Steps.of(layer.input)
        factors = None if self._steps is None else -self._steps.scale
        self._weight = layers.decoded(layer.stored, unit=unit, times=factors)
        layers.float_units.setdefault(unit, _WHY_FLOAT)

    def write(self, value: str, strip: Strip | None = None) -> str:
        """[1, h, w, C] → the same of the output; a strip has its own rows of zeros."""
        graph, layers, layer = self._layers.graph, self._layers, self._layer
        if self._steps is not None:
            value = _write_steps(graph, value, self._steps)
        elif isinstance(layer, StoredLayer):
            value = layers.activation(value, layer.input, unit=self._unit)
        pads = None if strip is None else [strip.above, layer.padding[1], strip.below, layer.padding[1]]
        maps = graph.transpose(value, 0, 3, 1, 2)
        return graph.transpose(layers.convolved(maps, self._weight, layer, bias=self._bias, pads=pads), 0, 2, 3, 1)


def _write_steps(graph: Graph, value: str, steps: _Steps) -> str:
    """A map whose channels are last, in whole numbers of its channels' steps, times −1.

    ONNX Runtime computes Max with all threads and Min with one, so the upper end is a lower end of the negative value.
    """
    above = graph.add("Max", value, graph.constant(-steps.zero * steps.scale))
    scaled = graph.add("Mul", above, graph.constant(-1 / steps.scale))
    return graph.add("Round", graph.add("Max", scaled, graph.constant(steps.zero - (2**steps.bits - 1))))
