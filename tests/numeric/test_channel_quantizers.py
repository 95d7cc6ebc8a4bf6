"""A kind of quantizer that nobody knows: one affine grid for each channel of maps, in whole numbers."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mixqsam.artifact.manifest import UnitEntry
from mixqsam.errors import ArtifactError, HonestyError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.honesty import check_model, distinct_values
from mixqsam.numeric.modules import QuantizedConv2d
from mixqsam.numeric.quantizers import QUANTIZERS, AffineQuantizer
from mixqsam.numeric.tensor_file import TensorTable
from mixqsam.numeric.weights import quantize_weight, weight_grid
from mixqsam.quantization.reconstruction.learnable import LearnableQuantizer

CHANNELS, BITS = 5, 3


class MapQuantizer(AffineQuantizer):
    kind = "maps"
    channel_axis = -3
    fields: ClassVar = {"scale": (1, torch.float32), "zero": (1, torch.uint8)}

    def __init__(self, grid: AffineGrid) -> None:
        super().__init__()
        self.bits = grid.bits
        self._keep(scale=grid.scale, zero=grid.zero)

    @classmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "MapQuantizer":
        return cls(AffineGrid(bits, tensors["scale"], tensors["zero"].float()))

    @property
    def channels(self) -> int:
        return len(self.scale)

    def spread(self, values: Tensor) -> Tensor:
        return values[:, None, None]

    def with_scale(self, scale: Tensor) -> "MapQuantizer":
        return MapQuantizer(AffineGrid(self.bits, scale, self.zero))

    def product_scale(self, weight_scale: Tensor) -> Tensor:
        return weight_scale.reshape(-1) * self.scale

    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        quantized = self.grid.project(values)
        return (quantized / self.spread(self.scale)).round() if whole else quantized


@pytest.fixture
def quantizer(monkeypatch: pytest.MonkeyPatch) -> MapQuantizer:
    monkeypatch.setitem(QUANTIZERS, MapQuantizer.kind, MapQuantizer)
    high = torch.tensor([0.1, 1.0, 3.0, 10.0, 40.0])
    return MapQuantizer(AffineGrid.from_range(-high, high, bits=BITS))


def maps() -> Tensor:
    scale = torch.tensor([0.1, 1.0, 3.0, 10.0, 40.0])[:, None, None]
    return torch.randn(2, CHANNELS, 9, 8, generator=torch.Generator().manual_seed(0)) * scale


def test_it_passes_the_honesty_checks_channel_by_channel(quantizer: MapQuantizer) -> None:
    assert distinct_values(quantizer).tolist() == [2**BITS] * CHANNELS
    check_model(nn.Sequential(quantizer))
    quantizer.bits = BITS - 1
    wider = MapQuantizer(AffineGrid(BITS, quantizer.scale, quantizer.zero))

    def forward(values: Tensor, whole: bool = False) -> Tensor:
        return MapQuantizer.forward(wider, values)

    quantizer.__dict__["forward"] = forward
    with pytest.raises(HonestyError, match="8 distinct values from a 2-bit quantizer"):
        check_model(nn.Sequential(quantizer))


def test_a_depthwise_convolution_of_whole_numbers_is_exact(quantizer: MapQuantizer) -> None:
    torch.manual_seed(0)
    source = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
    weight = quantize_weight(source.weight, weight_grid(source.weight, bits=4, observer="minmax", name="x"))
    layer = QuantizedConv2d(weight, source.bias, quantizer, source=source)
    expected = functional.conv2d(quantizer(maps()), weight.dequantize(), source.bias, padding=1, groups=CHANNELS)
    assert quantizer(maps(), whole=True).frac().abs().max() == 0
    torch.testing.assert_close(layer(maps()), expected, rtol=1e-5, atol=1e-4)


def test_its_scales_are_learned_apart(quantizer: MapQuantizer) -> None:
    learnable = LearnableQuantizer(quantizer, float_share=0.0, generator=torch.Generator())
    assert learnable.logarithm is not None
    learnable(maps()).square().mean(dim=(0, 2, 3))[1].backward()
    assert learnable.logarithm.grad is not None
    assert (learnable.logarithm.grad != 0).tolist() == [False, True, False, False, False]
    with torch.no_grad():
        learnable.logarithm.copy_(torch.linspace(-0.5, 0.5, CHANNELS))
    frozen = learnable.freeze()
    assert isinstance(frozen, MapQuantizer)
    torch.testing.assert_close(frozen(maps()), learnable(maps()))
    assert frozen.deployable() is frozen


def test_it_is_stored_and_read(quantizer: MapQuantizer) -> None:
    def table() -> TensorTable:
        return TensorTable({f"u.input_{name}": one for name, one in quantizer.tensors().items()}, source="x")

    again = table().quantizer("u.input", kind="maps", bits=BITS, channels=CHANNELS)
    assert torch.equal(again(maps()), quantizer(maps()))
    with pytest.raises(ArtifactError, match="x: u.input has grids for 5 channels, expected grids for 4"):
        table().quantizer("u.input", kind="maps", bits=BITS, channels=4)
    assert UnitEntry(weight=4, activation=BITS, quantizers={"input": "maps"}).kinds == {"input": "maps"}
    with pytest.raises(ValueError, match="expected one of channels, grouped, hybrid, log, maps"):
        UnitEntry(weight=4, activation=BITS, quantizers={"input": "affine"})


def test_it_is_written_as_onnx(quantizer: MapQuantizer) -> None:
    pytest.importorskip("onnx", reason="needs the extra onnx")
    from onnx.reference import ReferenceEvaluator

    from mixqsam.exporting.graph import Graph, tensor
    from mixqsam.exporting.layers import Layers

    graph = Graph()
    layers = Layers(graph, {})
    graph.add("Identity", layers.activation("x", quantizer, unit="u"), outputs=["y"])
    shape = tuple(maps().shape)
    model = graph.model("maps", [tensor("x", *shape)], [tensor("y", *shape)], metadata={})
    (found,) = ReferenceEvaluator(model).run(None, {"x": maps().numpy()})
    np.testing.assert_allclose(np.asarray(found), quantizer(maps()).numpy(), rtol=1e-6, atol=1e-6)
