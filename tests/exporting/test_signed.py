"""Attention in OpenVINO by products of signed bytes, against the same in PyTorch."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.modules import QuantizedLinear
from mixqsam.numeric.quantizers import Quantizer
from mixqsam.numeric.weights import quantize_weight, weight_grid

onnx = pytest.importorskip("onnx", reason="needs the extra openvino")
openvino = pytest.importorskip("openvino", reason="needs the extra openvino")

from mixqsam.exporting.graph import Graph, tensor  # noqa: E402
from mixqsam.exporting.layers import Layers  # noqa: E402
from mixqsam.exporting.signed import Signed, mix_signed, with_constants, write_signed  # noqa: E402

HEADS, TOKENS, DEEP = 2, 32, 16
WIDTH = HEADS * DEEP


def grid(low: float, high: float, *, bits: int) -> Quantizer:
    return Quantizer(AffineGrid.from_range(torch.tensor(low), torch.tensor(high), bits=bits))


def quantized(layer: nn.Linear, inputs: Quantizer) -> QuantizedLinear:
    stored = quantize_weight(layer.weight, weight_grid(layer.weight, bits=8, observer="minmax", name="w"))
    return QuantizedLinear(stored, layer.bias, inputs)


def attention_of(bits: int) -> SimpleNamespace:
    """Three layers and grids whose zero points are far from the middle."""
    torch.manual_seed(0)
    inputs = grid(-3.0, 3.0, bits=8)
    layers = [quantized(nn.Linear(WIDTH, WIDTH), inputs) for _ in range(3)]
    sides = grid(-1.0, 3.0, bits=bits), grid(-3.0, 1.5, bits=bits)
    weights, values = grid(0.0, 1.0, bits=bits), grid(-0.7, 2.0, bits=bits)
    return SimpleNamespace(
        layers=layers,
        scale=3.0,
        qk=SimpleNamespace(left=sides[0], right=sides[1]),
        av=SimpleNamespace(left=weights, right=values),
    )


def split(values: Tensor) -> Tensor:
    return values.reshape(1, TOKENS, HEADS, DEEP).transpose(1, 2)


def expected_of(attention: SimpleNamespace, inputs: Tensor, mask: Tensor) -> Tensor:
    quantizers = attention.qk.left, attention.qk.right, attention.av.right
    query, key, value = (
        quantizer(split(layer(inputs))) for layer, quantizer in zip(attention.layers, quantizers, strict=True)
    )
    weights = torch.softmax(query @ key.mT * attention.scale + mask, -1)
    mixed: Tensor = attention.av.left(weights) @ value
    return mixed


def model_of(attention: SimpleNamespace) -> Any:
    graph = Graph()
    layers, operands = Layers(graph, {}), []
    query, key, value = attention.layers
    parts = (
        (query, attention.qk.left, (0, 2, 1, 3)),
        (key, attention.qk.right, (0, 2, 3, 1)),
        (with_constants(value, attention.av.right, heads=HEADS), attention.av.right, (0, 2, 1, 3)),
    )
    for layer, quantizer, axes in parts:
        signed = write_signed(layers, layers.linear("x", layer, unit="u"), quantizer)
        value = graph.transpose(graph.reshape(signed.value, 0, TOKENS, HEADS, -1), *axes)
        operands.append(Signed(value, signed.offset, signed.step))
    found = mix_signed(layers, (operands[0], operands[1], operands[2]), attention, "mask", unit="u")
    graph.add("Identity", found, outputs=["y"])
    inputs = [tensor("x", 1, TOKENS, WIDTH), tensor("mask", 1, HEADS, TOKENS, TOKENS)]
    return graph.model("m", inputs, [tensor("y", 1, HEADS, TOKENS, DEEP)], metadata={})


def products(compiled: Any) -> Iterator[str]:
    """The types in which products of two activations are computed, alone or within what is fused."""
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        kind, names = info["layerType"].astype(str), info["originalLayersNames"].astype(str)
        if kind == "MatMul" or (kind == "Subgraph" and "Softmax" in names):
            yield info["runtimePrecision"].astype(str)


@pytest.mark.parametrize("bits", [4, 8])
def test_signed_products_give_the_attention(tmp_path: Path, bits: int) -> None:
    attention = attention_of(bits)
    inputs, mask = torch.randn(1, TOKENS, WIDTH), torch.randn(1, HEADS, TOKENS, TOKENS)
    onnx.save(model_of(attention), tmp_path / "m.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "m.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = torch.from_numpy(compiled({"x": inputs.numpy(), "mask": mask.numpy()})[0])
    expected = expected_of(attention, inputs, mask)
    # A weight in the middle between two steps may go either way, which is a step of its value.
    assert ((found - expected).abs() > 1e-4).float().mean() < 0.02
    kinds = list(products(compiled))
    assert kinds
    assert set(kinds) <= {"i8", "u8"}, kinds
