"""Quantized layers and activations as QDQ nodes, and the float ones between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from mixqsam.exporting.arrays import Array, array
from mixqsam.exporting.graph import Graph
from mixqsam.exporting.projections import affine_by_channel, hybrid, logarithmic
from mixqsam.numeric.half import HalfTensor, StoredWeight, Unquantized
from mixqsam.numeric.modules import QuantizedConv2d, StoredLayer
from mixqsam.numeric.quantizers import (
    ActivationQuantizer,
    AffineQuantizer,
    HybridQuantizer,
    LogQuantizer,
    Quantizer,
)
from mixqsam.numeric.weights import QuantizedTensor
from mixqsam.runtime.packed import PackedConv2d


@dataclass(frozen=True)
class Matrix:
    """A linear layer as values of a graph.

    Attributes:
        weight: [in, out].
        bias: with as many axes as the layer's values, if any.
    """

    weight: str
    bias: str | None


class Layers:
    """Adds layers to a graph.

    Args:
        graph: it grows.
        rest: tensors of no unit that are stored as codes, by name.

    Attributes:
        float_units: name → why a unit's products stay in float arithmetic, its values quantized all the same.
    """

    def __init__(self, graph: Graph, rest: Mapping[str, QuantizedTensor]) -> None:
        self.graph, self._rest = graph, rest
        self.float_units: dict[str, str] = {}
        self._known: dict[tuple[str, int], str] = {}

    def tensor(self, name: str, tensor: Tensor) -> str:
        """A tensor of the rest; as codes, where it is stored so, which runtimes decode once."""
        graph = self.graph
        if name not in self._rest:
            return graph.constant(array(tensor), name=name)
        stored = self._rest[name]
        codes = graph.add("Cast", graph.constant(stored.codes.cpu().numpy(), np.uint8, name=name), to=1)
        steps = graph.add("Sub", codes, graph.constant(array(stored.grid.zero)))
        return graph.reshape(graph.add("Mul", steps, graph.constant(array(stored.grid.scale))), *stored.shape)

    def quantize(self, value: str, quantizer: Quantizer, *, signed: bool = False) -> str:
        """Codes of an activation: bytes, or signed bytes around the middle of the grid."""
        graph, low, step = self.graph, -float(quantizer.zero), quantizer.step
        if quantizer.bits < 8:
            last = 2**quantizer.bits - 1 + low
            value = graph.add("Clip", value, graph.constant(low * step), graph.constant(last * step))
        return graph.add(
            "QuantizeLinear", value, graph.constant(quantizer.step), _zero(graph, quantizer, signed=signed)
        )

    def dequantize(
        self,
        codes: str,
        quantizer: Quantizer,
        *,
        graph: Graph | None = None,
        times: float = 1.0,
        signed: bool = False,
    ) -> str:
        """The values of codes, times a factor."""
        own = graph or self.graph
        scale = own.constant(np.float32(quantizer.step) * np.float32(times))
        return own.add("DequantizeLinear", codes, scale, _zero(own, quantizer, signed=signed))

    def activation(self, value: str, quantizer: nn.Module, *, unit: str, graph: Graph | None = None) -> str:
        """The values of an activation after its quantizer; the value itself where there is none."""
        if isinstance(quantizer, Quantizer):
            layers = self if graph is None else _within(self, graph)
            key = (value, id(quantizer))
            if key not in layers._known:
                layers._known[key] = layers.dequantize(layers.quantize(value, quantizer), quantizer)
            return layers._known[key]
        if isinstance(quantizer, Unquantized):
            self.float_units[unit] = "its activations have 16 bits and are not quantized"
            return value
        if not isinstance(quantizer, ActivationQuantizer):
            return value
        self.float_units[unit] = f"its {quantizer.kind} quantizer has no single step"
        own = graph or self.graph
        if isinstance(quantizer, LogQuantizer):
            return logarithmic(own, value, quantizer)
        if isinstance(quantizer, HybridQuantizer):
            return hybrid(own, value, quantizer)
        if isinstance(quantizer, AffineQuantizer):
            return affine_by_channel(own, value, quantizer)
        raise TypeError(f"{unit}: a quantizer of kind {quantizer.kind} cannot be written as ONNX.")

    def weight(self, stored: StoredWeight, *, unit: str, transposed: bool = False, times: Array | None = None) -> str:
        """The weight [out, …], or [in, out]: in half precision, or as codes and their step.

        Codes are 4-bit ones up to 4 bits, bytes above.

        Args:
            stored: the weight.
            unit: whose it is.
            transposed: write a matrix as [in, out].
            times: a factor for each output.
        """
        graph = self.graph
        if isinstance(stored, HalfTensor):
            return self._half(stored, unit=unit, transposed=transposed, times=times)
        codes = stored.codes.reshape(stored.shape).cpu().numpy()
        zero = stored.grid.zero.reshape(-1).cpu().numpy()
        scale = array(stored.grid.scale.reshape(-1)) * (np.float32(1) if times is None else times)
        axis = 1 if transposed else 0
        if transposed:
            codes = codes.T
        shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
        zeros = zero.reshape(shape)
        signed = codes.astype(np.int16) - zeros.astype(np.int16)
        if signed.min() < -128 or signed.max() > 127:
            self.float_units[unit] = "its 8-bit weights have other zero points than 128"
            values = graph.constant(codes, np.uint8, name=unit), graph.constant(zero, np.uint8)
        elif stored.grid.bits <= 4 and graph.has_short_codes:
            # Unpacked when a session starts: with per-channel 4-bit weights ONNX Runtime and OpenVINO compute in float.
            halves = graph.half_bytes(np.ascontiguousarray(codes), name=unit)
            bytes_ = graph.add("Cast", halves, to=3)
            values = (
                graph.add("Sub", bytes_, graph.constant(zeros, np.int8)),
                graph.constant(np.zeros_like(zero), np.int8),
            )
        else:
            values = graph.constant(signed, np.int8, name=unit), graph.constant(np.zeros_like(zero), np.int8)
        return graph.add("DequantizeLinear", values[0], graph.constant(scale), values[1], axis=axis)

    def decoded(self, stored: StoredWeight, *, unit: str, transposed: bool = False, times: Array | None = None) -> str:
        """The weight [out, …], or [in, out], as codes that are cast and scaled without a node for quantization.

        Args:
            stored: the weight.
            unit: whose it is.
            transposed: write a matrix as [in, out].
            times: a factor for each output.
        """
        if isinstance(stored, HalfTensor):
            return self.weight(stored, unit=unit, transposed=transposed, times=times)
        graph, axis = self.graph, int(transposed)
        codes = stored.codes.reshape(stored.shape).cpu().numpy()
        codes = np.ascontiguousarray(codes.T if transposed else codes)
        shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
        scale, zero = (array(values.reshape(-1)) for values in (stored.grid.scale, stored.grid.zero))
        scale = scale if times is None else scale * times
        kept = graph.codes(codes, bits=stored.bits, name=unit)
        steps = graph.add("Sub", graph.add("Cast", kept, to=1), graph.constant(zero.reshape(shape)))
        return graph.add("Mul", steps, graph.constant(scale.reshape(shape)))

    def _half(self, stored: HalfTensor, *, unit: str, transposed: bool, times: Array | None) -> str:
        """A weight of 16 bits, cast to float32, which runtimes do once, when a session starts.

        bfloat16 values become float16 where that says the same, because all runtimes and tools know float16.
        """
        graph = self.graph
        self.float_units.setdefault(unit, "its weights have 16 bits")
        weight = graph.add("Cast", graph.half(stored.values.t() if transposed else stored.values, name=unit), to=1)
        if times is None:
            return weight
        shape = [-1 if axis == int(transposed) else 1 for axis in range(len(stored.shape))]
        return graph.add("Mul", weight, graph.constant(times.reshape(shape)))

    def linear(self, value: str, layer: Any, *, unit: str, rank: int = 3) -> str:
        """Y = x·wᵀ + bias, of a value with `rank` axes.

        The bias has as many axes as the value: with one axis, ONNX Runtime joins product and bias to a float Gemm
        before it looks for integer products.
        """
        return self.product(self.input(value, layer, unit=unit), layer, unit=unit, rank=rank)

    def input(self, value: str, layer: Any, *, unit: str) -> str:
        """A value behind the quantizer of a layer, if it has one."""
        return self.activation(value, layer.input, unit=unit) if isinstance(layer, StoredLayer) else value

    def product(self, value: str, layer: Any, *, unit: str, rank: int = 3) -> str:
        """`linear` of a value that has been through the layer's quantizer."""
        return self.multiplied(value, self.matrix(layer, unit=unit, rank=rank))

    def matrix(self, layer: Any, *, unit: str, rank: int = 3) -> Matrix:
        """A linear layer, written once for several products; see `linear`."""
        graph = self.graph
        if isinstance(layer, StoredLayer):
            # ONNX Runtime joins a DequantizeLinear to the product of float values behind it, and then rounds these
            # values to 8 bits (MatMulNBits).
            decode = self.weight if isinstance(layer.input, Quantizer) else self.decoded
            weight = decode(layer.stored, unit=unit, transposed=True)
        else:
            weight = graph.transpose(self.tensor(f"{unit}.weight", layer.weight), 1, 0)
        if not isinstance(layer.bias, Tensor):
            return Matrix(weight, None)
        return Matrix(weight, graph.constant(array(layer.bias).reshape([1] * (rank - 1) + [-1])))

    def multiplied(self, value: str, matrix: Matrix) -> str:
        """`product` with a layer that is written already."""
        product = self.graph.add("MatMul", value, matrix.weight)
        return product if matrix.bias is None else self.graph.add("Add", product, matrix.bias)

    def convolution(self, value: str, layer: nn.Module, *, unit: str) -> str:
        """A convolution [batch, in, h, w] → [batch, out, h', w']."""
        assert isinstance(layer, QuantizedConv2d | PackedConv2d | nn.Conv2d)  # noqa: S101
        if isinstance(layer, QuantizedConv2d | PackedConv2d):
            value = self.activation(value, layer.input, unit=unit)
            weight = self.weight(layer.stored, unit=unit)
        else:
            weight = self.tensor(f"{unit}.weight", layer.weight)
        return self.convolved(value, weight, layer)

    def convolved(
        self,
        value: str,
        weight: str,
        layer: Any,
        *,
        bias: str | None = None,
        pads: Sequence[int] | None = None,
        biased: bool = True,
    ) -> str:
        """A convolution with a weight that is written already, and the layer's strides, bias and padding.

        Args:
            value: [batch, in, h, w].
            weight: of the layer.
            layer: says the rest.
            bias: the layer's, where it is written already.
            pads: rows and columns of zeros before and behind, in place of the layer's.
            biased: add a bias.
        """
        graph = self.graph
        if bias is None and layer.bias is not None and biased:
            bias = graph.constant(array(layer.bias))
        sides = [int(side) for side in layer.padding]
        # ONNX Runtime's WebGPU refuses a convolution that leaves out its dilations.
        return graph.add(
            "Conv",
            *(value, weight, *([] if bias is None else [bias])),
            strides=list(layer.stride),
            pads=list(pads or [*sides, *sides]),
            dilations=list(layer.dilation),
            group=int(layer.groups),
        )

    def norm(self, value: str, layer: nn.LayerNorm) -> str:
        """Layer norm over the last axis."""
        graph = self.graph
        parts = [graph.constant(array(part)) for part in (layer.weight, layer.bias)]
        return graph.add("LayerNormalization", value, *parts, axis=-1, epsilon=float(layer.eps))

    def norm_of_channels(self, value: str, layer: nn.LayerNorm) -> str:
        """Layer norm over the channels of [batch, channels, h, w]."""
        last = self.norm(self.graph.transpose(value, 0, 2, 3, 1), layer)
        return self.graph.transpose(last, 0, 3, 1, 2)


def _zero(graph: Graph, quantizer: Quantizer, *, signed: bool) -> str:
    """The code of a zero, whose type is that of all codes."""
    if signed:
        return graph.constant(int(quantizer.zero) - 2 ** (quantizer.bits - 1), np.int8)
    return graph.constant(int(quantizer.zero), np.uint8)


def _within(layers: Layers, graph: Graph) -> Layers:
    inner = Layers(graph, {})
    inner.float_units = layers.float_units
    return inner
