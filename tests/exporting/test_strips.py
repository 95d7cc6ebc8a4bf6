"""Maps in strips of rows: they cover the map, and what is computed from them is what is computed from the whole."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import onnx

from mixqsam.calibrate import Ranges
from mixqsam.deployed.backends import ONNX
from mixqsam.deployed.names import ENCODER
from mixqsam.exporting import strips
from mixqsam.exporting.strips import cut_rows
from mixqsam.sam.load import Sam
from tests.exporting.test_mobile_sam import mobile, mobile_ranges, uniform, write  # noqa: F401
from tests.exporting.test_onnx import operators
from tests.oracles import nearest

# A row of the first maps of the tiny model.
_SMALL = 2000


def encode(folder: Path) -> np.ndarray:
    pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(5)).numpy()
    found = ONNX.load(folder, ENCODER, threads=1, precision="f32").run({"x": pixels})
    return np.asarray(found["image_embeddings"])


@pytest.mark.parametrize("bytes_", [1, 700, 1500, 1 << 20])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [9, 16])
def test_strips_of_a_convolution_make_the_whole(
    side: int, stride: int, bytes_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "STRIP_BYTES", bytes_)
    torch.manual_seed(0)
    values, layer = torch.randn(1, 4, side, side), torch.nn.Conv2d(4, 4, 3, stride=stride, groups=4)
    parts = []
    for strip in cut_rows(side, row_bytes=100, kernel=3, stride=stride, padding=1):
        rows = values[:, :, strip.start : strip.stop]
        parts.append(layer(torch.nn.functional.pad(rows, (1, 1, strip.above, strip.below))))
    expected = layer(torch.nn.functional.pad(values, (1, 1, 1, 1)))
    assert torch.allclose(torch.cat(parts, 2), expected, atol=1e-6)


def test_a_small_map_is_one_strip() -> None:
    (strip,) = cut_rows(24, row_bytes=100, kernel=3, padding=1)
    assert (strip.start, strip.stop, strip.above, strip.below) == (0, 24, 1, 1)


@pytest.mark.parametrize("bits", [8, 16])
def test_strips_change_neither_values_nor_weights(
    mobile: Sam,  # noqa: F811
    mobile_ranges: Ranges,  # noqa: F811
    tmp_path: Path,
    bits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = uniform(mobile, bits)
    model = nearest(mobile, plan, mobile_ranges)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder, bytes_ in ((whole, 1 << 30), (cut, _SMALL)):
        folder.mkdir()
        monkeypatch.setattr(strips, "STRIP_BYTES", bytes_)
        write(model, plan, folder, ONNX)
    expected, found = encode(whole), encode(cut)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9999
    before, after = (onnx.load(str(ONNX.file(folder, ENCODER))).graph for folder in (whole, cut))
    assert sum(node.op_type == "Slice" for node in after.node) > sum(node.op_type == "Slice" for node in before.node)
    # Rows' numbers are new constants; weights and biases are written once.
    large = [sum(len(one.raw_data) > 64 for one in graph.initializer) for graph in (before, after)]
    assert large[0] == large[1]


def test_products_of_strips_are_whole_numbers(
    mobile: Sam,  # noqa: F811
    mobile_ranges: Ranges,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strips, "STRIP_BYTES", _SMALL)
    plan = uniform(mobile, 8)
    write(nearest(mobile, plan, mobile_ranges), plan, tmp_path, ONNX)
    found = operators(ONNX.file(tmp_path, ENCODER))
    assert not found["Gemm"] + found["MatMul"] + found["FusedMatMul"], found
    # ONNX Runtime computes it with one thread.
    assert not found["Min"], found
