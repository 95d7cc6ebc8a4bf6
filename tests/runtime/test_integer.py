import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers.activations import GELUActivation

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import load_model, save_model
from mixqsam.calibrate import Ranges, calibrate
from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.modules import QuantizedConv2d, QuantizedLinear
from mixqsam.numeric.quantizers import Quantizer
from mixqsam.numeric.weights import quantize_weight, weight_grid
from mixqsam.pipeline.options import Data
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.runtime import attention, kernels, packed
from mixqsam.runtime.attention import IntegerMlp, IntegerVisionAttention
from mixqsam.runtime.build import integer_model, simulated_units
from mixqsam.runtime.kernels import ByteGrid, ByteMatrix, is_gelu, missing_kernels
from mixqsam.runtime.packed import pack_layer
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor
from tests.oracles import logits_of, mixture, nearest

pytestmark = pytest.mark.skipif(missing_kernels() is not None, reason=f"no integer kernels here: {missing_kernels()}")


@pytest.fixture(scope="module")
def ranges(sam: Sam, samples: list[Sample]) -> Ranges:
    return calibrate(sam, samples, observer="omse", progress=Silent())


@pytest.fixture(autouse=True)
def _narrow_convolutions_are_integer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models have no others."""
    monkeypatch.setattr(packed, "_LEAST_PRODUCTS", 0)


def uniform(sam: Sam, bits: int) -> BitPlan:
    return BitPlan.uniform(sam.costs().units, UnitBits(bits, bits))


def quantizer(bits: int, low: float, high: float) -> Quantizer:
    return Quantizer(AffineGrid.from_range(torch.tensor(low), torch.tensor(high), bits=bits))


@pytest.mark.parametrize("piece", [7, 1 << 18], ids=["in pieces", "at once"])
@pytest.mark.parametrize("bits", [3, 8])
def test_codes_are_those_of_the_grid(monkeypatch: pytest.MonkeyPatch, bits: int, piece: int) -> None:
    monkeypatch.setattr(kernels, "_PIECE", piece)
    affine = AffineGrid.from_range(torch.tensor(-1.3), torch.tensor(2.2), bits=bits)
    grid, values = ByteGrid.of(Quantizer(affine)), torch.randn(4, 5, 6, generator=torch.manual_seed(0)) * 3
    values[0, 0] = torch.tensor([0.0, -1e30, 1e30, -torch.inf, torch.inf, 2.2])
    steps = (values * (1 / affine.scale)).round()
    expected = steps.clamp(-affine.zero, 2**bits - 1 - affine.zero) + affine.zero
    for some, wanted in ((values, expected), (values.transpose(0, 2), expected.transpose(0, 2))):
        found = grid.encode(some)
        assert found.dtype == torch.uint8
        torch.testing.assert_close(found.float(), wanted, rtol=0, atol=0)
        assert torch.equal(grid.encode(some.clone(), spent=True), found)


def test_codes_of_ties_are_those_of_the_simulation() -> None:
    """Half steps, and the floats beside them, around even and odd zero points."""
    for zero in (0.0, 101.0, 128.0, 255.0):
        affine = AffineGrid(8, torch.tensor(0.0123), torch.tensor(zero))
        grid, halves = ByteGrid.of(Quantizer(affine)), (torch.arange(-300, 300) + 0.5) * affine.scale
        beside = [torch.nextafter(halves, torch.tensor(end)) for end in (-9e9, 9e9)]
        values = torch.cat([halves, *beside])
        assert torch.equal(grid.encode(values), (grid.quantizer(values, whole=True) + zero).to(torch.uint8))


@pytest.mark.parametrize("bits", range(2, 9), ids=lambda bits: f"W{bits}A{bits}")
def test_every_bit_width_gives_what_the_simulation_gives(
    sam: Sam, samples: list[Sample], ranges: Ranges, bits: int
) -> None:
    model = nearest(sam, uniform(sam, bits), ranges)
    integer = integer_model(model)
    reasons = {why for _, why in simulated_units(integer.model)}
    assert reasons == {"its products are small, and run on whole numbers in float"}
    for sample in samples:
        assert torch.equal(logits_of(integer, sample), logits_of(model, sample))


@pytest.mark.parametrize("seed", range(3), ids=lambda seed: f"mixture-{seed}")
def test_mixtures_with_float_units_give_what_the_simulation_gives(
    sam: Sam, samples: list[Sample], ranges: Ranges, seed: int
) -> None:
    model = nearest(sam, mixture(sam, seed=seed), ranges)
    for sample in samples:
        assert torch.equal(logits_of(integer_model(model), sample), logits_of(model, sample))


@pytest.mark.parametrize("name", ["ptq4sam-l", "ahcptq"])
def test_units_with_other_quantizers_are_simulated_and_named(
    sam: Sam, four: list[Sample], tmp_path: Path, name: str
) -> None:
    model = quantize(
        sam,
        uniform(sam, 4),
        four,
        recipe=RECIPES[name],
        cache=Cache(tmp_path),
        progress=Silent(),
        options=ReconstructionOptions(iterations=2),
    ).sam
    integer = integer_model(model)
    reasons = dict(simulated_units(integer.model))
    kind = {"ptq4sam-l": "log", "ahcptq": "grouped"}[name]
    assert any(f"a {kind} quantizer has no single step" in why for why in reasons.values())
    assert torch.equal(logits_of(integer, four[0]), logits_of(model, four[0]))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_global_attention_in_pieces_gives_the_same(
    sam: Sam, samples: list[Sample], ranges: Ranges, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    model = nearest(sam, uniform(sam, 6), ranges)
    monkeypatch.setattr(attention, "_SMALL", 0)
    monkeypatch.setattr(attention, "_LOGITS", rows * 25 * 5)
    for sample in samples:
        assert torch.equal(logits_of(integer_model(model), sample), logits_of(model, sample))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("bits", "low", "high"), [(8, -1.0, 3.0), (8, 0.0, 1.0), (8, -1.28, 1.27), (5, -1.0, 3.0)])
def test_a_product_of_codes_is_exact_whatever_the_zero_points(
    bits: int, low: float, high: float, transposed: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = quantizer(7, -2.0, 1.0), quantizer(bits, low, high)
    grids = ByteGrid.of(left), ByteGrid.of(right)
    many, few, deep = 12, 5, 16
    first = grids[0].encode(torch.randn(few, deep, generator=generator))
    shape = (deep, many) if transposed else (many, deep)
    second = grids[1].encode(torch.randn(shape, generator=generator))
    product = ByteMatrix(second, grids[1], step=0.5, rows=few, transposed=transposed).times(first, grids[0])
    whole = second.double() - grids[1].zero
    expected = 0.5 * (first.double() - grids[0].zero) @ (whole if transposed else whole.t())
    assert torch.equal(product.double(), expected)


def test_a_product_is_added_to_what_is_there_after_it_was_rounded() -> None:
    generator = torch.Generator().manual_seed(3)
    left = ByteGrid.of(quantizer(8, -2.0, 1.0))
    first = left.encode(torch.randn(5, 16, generator=generator))
    for high in (1.27, 3.0):
        right = ByteGrid.of(quantizer(8, -1.28, high))
        matrix = ByteMatrix(right.encode(torch.randn(12, 16, generator=generator)), right, step=0.37, rows=5)
        there = torch.randn(5, 12, generator=generator)
        expected = matrix.times(first, left) + there
        assert torch.equal(matrix.times(first, left, onto=there.clone()), expected)


def linear_with(grid: AffineGrid, weight: torch.Tensor) -> QuantizedLinear:
    return QuantizedLinear(quantize_weight(weight, grid), torch.ones(len(weight)), quantizer(8, -1.0, 2.0))


def test_weights_that_do_not_fit_a_signed_byte_are_simulated() -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)).abs() + 0.1
    layer = linear_with(AffineGrid.from_range(weight.new_zeros(6, 1), weight.amax(1, keepdim=True), bits=8), weight)
    mine = pack_layer(layer)
    x = torch.randn(3, 8)
    assert torch.equal(mine(x), layer(x))
    assert mine.simulated == "its 8-bit weights have other zero points than 128"
    fitting = pack_layer(linear_with(weight_grid(weight, bits=8, observer="omse", name="w"), weight))
    assert fitting.simulated is None


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bits", [3, 8])
def test_convolutions_are_products_of_patches(kernel: int, bits: int) -> None:
    generator = torch.Generator().manual_seed(2)
    source = nn.Conv2d(5, 7, kernel, padding=kernel // 2)
    weight = torch.randn(7, 5, kernel, kernel, generator=generator)
    stored = quantize_weight(weight, weight_grid(weight, bits=bits, observer="minmax", name="w"))
    layer = QuantizedConv2d(stored, source.bias, quantizer(6, -1.0, 2.0), source=source)
    x = torch.randn(2, 5, 6, 4, generator=generator)
    mine = pack_layer(layer)
    assert torch.equal(mine(x), layer(x))
    assert mine.simulated is None


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kernels, packed, attention):
        monkeypatch.setattr(module, "missing_kernels", lambda: "this build has none")
    monkeypatch.setattr(packed, "_told", set())


def test_a_build_without_kernels_simulates_and_says_so_once(
    no_kernels: None, sam: Sam, samples: list[Sample], ranges: Ranges
) -> None:
    model = nearest(sam, uniform(sam, 5), ranges)
    integer = integer_model(model)
    with pytest.warns(RuntimeWarning, match="this build has none.*simulated in float") as caught:
        found = logits_of(integer, samples[0])
    assert len(caught) == 1
    assert torch.equal(found, logits_of(model, samples[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits_of(integer, samples[0])


def test_a_directory_loads_packed_and_is_saved_as_it_was(
    sam: Sam, samples: list[Sample], ranges: Ranges, tmp_path: Path
) -> None:
    plan = mixture(sam, seed=4)
    model = nearest(sam, plan, ranges)
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    save_model(model, Manifest.of(model, plan, recipe="omse", prompts_per_image=1), tmp_path / "first")
    integer, manifest = load_model(tmp_path / "first", integer=True)
    assert torch.equal(logits_of(integer, samples[0]), logits_of(model, samples[0]))
    kinds = {type(module) for module in integer.model.modules()}
    assert {IntegerMlp, packed.PackedLinear, packed.PackedConv2d} <= kinds
    save_model(integer, manifest, tmp_path / "second")
    first, second = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("first", "second"))
    assert first == second


def test_masks_on_photographs_are_those_of_the_simulation(coco: Path) -> None:
    """Without exact sums this is far from true: rounding makes a step of the least difference."""
    sam = load_sam("sam-tiny")
    data = Data(coco / "val2017", coco / "annotations/instances_val2017.json")
    samples = [sample for sample in data.samples(count=6, progress=Silent())[:6] if len(sample.prompts)]
    ranges = calibrate(sam, samples[:2], observer="minmax", progress=Silent())
    rng = np.random.default_rng(0)
    plan = BitPlan({u.name: UnitBits(*(int(b) for b in rng.integers(3, 9, 2))) for u in sam.costs().units})
    model = nearest(sam, plan, ranges)
    integer = integer_model(model)
    assert any(isinstance(module, IntegerVisionAttention) for module in integer.model.modules())
    predictors = SamPredictor(model), SamPredictor(integer)
    ious = []
    for sample in samples:
        image = sample.open()
        for predictor in predictors:
            predictor.set_image(image)
        first, second = (predictor.segment(sample.prompts).masks for predictor in predictors)
        union = (first | second).sum(axis=(1, 2, 3))
        ious += list(np.where(union == 0, 1.0, (first & second).sum(axis=(1, 2, 3)) / np.maximum(union, 1)))
    assert np.mean(ious) >= 0.999


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (nn.GELU(), True),
        (GELUActivation(), True),
        (nn.GELU(approximate="tanh"), False),
        (GELUActivation(use_gelu_python=True), False),
        (nn.ReLU(), False),
    ],
)
def test_only_the_gelu_itself_is_computed_with_the_product(act: nn.Module, expected: bool) -> None:
    assert is_gelu(act) == expected
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    layer = pack_layer(linear_with(weight_grid(weight, bits=8, observer="minmax", name="w"), weight))
    x = torch.randn(5, 8)
    kernel = layer.kernel(x)
    assert kernel is not None
    assert torch.equal(kernel.activated(kernel.source.encode(x), act), act(layer(x)))
