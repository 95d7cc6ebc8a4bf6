"""Quantized convolutions of traced graphs: maps are [batch, channels, h, w]."""

from typing import Any

from mixqsam.exporting.arrays import array
from mixqsam.exporting.depthwise import write_depthwise
from mixqsam.exporting.layers import Layers
from mixqsam.exporting.parts import as_linear
from mixqsam.numeric.quantizers import Quantizer
from mixqsam.numeric.weights import QuantizedTensor


def write_convolution(layers: Layers, value: str, layer: Any, *, unit: str, apart: bool) -> str:
    """A quantized convolution.

    ONNX Runtime has integer kernels for a convolution only where its output has a grid, and rounds the bias of one with
    a quantized input to a multiple of the product's step, which at few bits is coarse.

    Args:
        layers: where it is written.
        value: [batch, in, h, w].
        layer: quantized.
        unit: its name.
        apart: write what works on single places as a linear layer, which runs in whole numbers, and add other biases
            where ONNX Runtime does not join them to the convolution.

    Returns:
        [batch, out, h', w'].
    """
    graph = layers.graph
    if layer.groups > 1:
        if not apart:
            return write_depthwise(layers, value, layer, unit=unit, channels_last=False)
        last = write_depthwise(layers, graph.transpose(value, 0, 2, 3, 1), layer, unit=unit, channels_last=True)
        return graph.transpose(last, 0, 3, 1, 2)
    if not apart or not isinstance(layer.input, Quantizer):
        return layers.convolution(value, layer, unit=unit)
    if _sees_one_place(layer) and isinstance(layer.stored, QuantizedTensor):
        last = graph.transpose(value, 0, 2, 3, 1)
        return graph.transpose(layers.linear(last, as_linear(layer), unit=unit, rank=4), 0, 3, 1, 2)
    weight = layers.weight(layer.stored, unit=unit)
    layers.float_units[unit] = "ONNX Runtime computes a convolution in whole numbers only if its output has a grid"
    found = layers.convolved(layers.activation(value, layer.input, unit=unit), weight, layer, biased=False)
    if layer.bias is None:
        return found
    # An axis more hides the sum from the optimiser, which would make it the convolution's bias.
    first = graph.constant([0], int)
    bias = graph.constant(array(layer.bias).reshape(1, 1, -1, 1, 1))
    return graph.add("Squeeze", graph.add("Add", graph.add("Unsqueeze", found, first), bias), first)


def _sees_one_place(layer: Any) -> bool:
    """Whether each output place comes from one input place, and all of them do."""
    ones = {*layer.stored.shape[2:], *layer.stride}
    return ones == {1} and set(layer.padding) == {0}
