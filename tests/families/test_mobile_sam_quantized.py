"""A convolutional encoder through everything that PyTorch does with a quantized model."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel

from mixqsam.analysis import variants
from mixqsam.analysis.ablation import zero
from mixqsam.analysis.measure import MeasurementOptions, analyze
from mixqsam.analysis.variants import Variant, run_prefix, run_variants
from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.packed import stored_tensors
from mixqsam.artifact.store import load_model, save_model
from mixqsam.calibrate import Ranges, cached_ranges, calibrate, depthwise_units
from mixqsam.data.samples import Sample
from mixqsam.families.mobile_sam_model import MobileSamModel
from mixqsam.files import Cache
from mixqsam.numeric.half import Unquantized
from mixqsam.numeric.modules import QuantizedConv2d, StoredLayer
from mixqsam.numeric.quantizers import ChannelQuantizer, Quantizer
from mixqsam.plan import FLOAT, BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import Quantized, quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.runtime import kernels, packed, tiny_vit
from mixqsam.runtime.build import integer_model, simulated_units
from mixqsam.runtime.kernels import missing_kernels
from mixqsam.sam.load import Sam, load_sam
from mixqsam.weight_grids import WeightGrids
from tests.families.released import random_mobile_sam, tiny_config
from tests.oracles import half_mixture, logits_of, mixture, nearest

integer_kernels = pytest.mark.skipif(missing_kernels() is not None, reason="no integer kernels here")


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> Sam:
    folder = tmp_path_factory.mktemp("tiny-mobile-sam")
    random_mobile_sam(tiny_config()).save_pretrained(folder)
    return load_sam(folder)


@pytest.fixture(scope="module")
def ranges(mobile: Sam, samples: list[Sample]) -> Ranges:
    return calibrate(mobile, samples, observer="omse", progress=Silent())


def uniform(sam: Sam, weight: int, activation: int) -> BitPlan:
    return BitPlan.uniform(sam.costs().units, UnitBits(weight, activation))


def run(sam: Sam, plan: BitPlan, samples: list[Sample], *, recipe: str, cache: Path) -> Quantized:
    options = ReconstructionOptions(iterations=2)
    return quantize(sam, plan, samples, recipe=RECIPES[recipe], cache=Cache(cache), progress=Silent(), options=options)


def inputs_of(sam: Sam) -> dict[str, type]:
    modules = sam.model.named_modules()
    return {name: type(module.input) for name, module in modules if isinstance(module, StoredLayer)}


def same(first: Sam, second: Sam, samples: list[Sample]) -> bool:
    return all(torch.equal(logits_of(first, sample), logits_of(second, sample)) for sample in samples)


def test_depthwise_inputs_have_ranges_of_their_channels(mobile: Sam, ranges: Ranges) -> None:
    units = depthwise_units(mobile)
    assert len(units) == 8
    assert set(ranges.channels) == set(units)
    for name in units:
        channels = mobile.model.get_submodule(name).in_channels
        assert [len(each) for each in ranges.channels[name].values()] == [channels] * 7
    assert Ranges.from_json(ranges.to_json()) == ranges


def test_finished_calibrations_of_models_without_such_units_are_still_found(
    sam: Sam, mobile: Sam, samples: list[Sample], tmp_path: Path
) -> None:
    def keys(model: Sam) -> set[str]:
        cache = Cache(tmp_path / model.family.name)
        cached_ranges(model, samples, observer="minmax", cache=cache, progress=Silent())
        return {path.name for path in cache.root.rglob("*calibration*") if path.is_file() and "lock" not in path.name}

    assert "channels" not in calibrate(sam, samples, observer="minmax", progress=Silent()).to_json()
    assert keys(sam)
    assert keys(mobile)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes with the same observer calibrate once."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_depthwise_units_a_grid_for_each_channel(
    mobile: Sam, four: list[Sample], tmp_path: Path, shared_cache: Path, name: str
) -> None:
    plan = mixture(mobile, seed=3)
    model = run(mobile, plan, four, recipe=name, cache=shared_cache).sam
    quantized = {unit for unit in depthwise_units(mobile) if not plan.bits[unit].is_float}
    assert {unit for unit, kind in inputs_of(model).items() if kind is ChannelQuantizer} == quantized
    manifest = Manifest.of(model, plan, recipe=name, prompts_per_image=1)
    assert all((manifest.units[unit].quantizers or {})["input"] == "channels" for unit in quantized)
    (tmp_path / "out").mkdir()
    written = save_model(model, manifest, tmp_path / "out")
    again, _ = load_model(tmp_path / "out")
    assert same(again, model, four[:2])
    costs = mobile.costs()
    theory = replace(costs, extra_bytes=RECIPES[name].extra_bytes(costs.units)).size(plan)
    header = int.from_bytes((tmp_path / "out/model.safetensors").read_bytes()[:8], "little") + 8
    assert written - header == pytest.approx(theory, rel=0.02)


def test_an_interrupted_reconstruction_goes_on(mobile: Sam, four: list[Sample], tmp_path: Path) -> None:
    plan = uniform(mobile, 4, 6)
    first = run(mobile, plan, four, recipe="qdrop", cache=tmp_path)
    kept = sorted(tmp_path.rglob("vision_encoder*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in kept[:-1]}
    kept[-1].unlink()
    second = run(mobile, plan, four, recipe="qdrop", cache=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept[:-1]} == before
    assert same(first.sam, second.sam, four[:2])
    assert [log.piece for log in first.logs] == [log.piece for log in second.logs]


@integer_kernels
@pytest.mark.parametrize("narrow", [True, False], ids=["narrow in float", "all integer"])
@pytest.mark.parametrize("bits", [2, 4, 8], ids=lambda bits: f"W{bits}A{bits}")
def test_integer_is_what_is_simulated(
    mobile: Sam, samples: list[Sample], ranges: Ranges, monkeypatch: pytest.MonkeyPatch, bits: int, narrow: bool
) -> None:
    if not narrow:
        monkeypatch.setattr(packed, "_LEAST_PRODUCTS", 0)
    model = nearest(mobile, uniform(mobile, bits, bits), ranges)
    integer = integer_model(model)
    assert same(integer, model, samples)
    modules = model.model.named_modules()
    neck = {name for name, module in modules if isinstance(module, QuantizedConv2d) and ".neck." in name}
    reported = {name for name, why in simulated_units(integer.model) if "products are small" not in why}
    assert reported == set(depthwise_units(mobile)) | (neck if narrow else set())


@integer_kernels
@pytest.mark.parametrize("values", [1, 1500], ids=["a row", "some rows"])
@pytest.mark.parametrize("seed", [None, 0, 1], ids=lambda seed: "W8A8" if seed is None else f"mixture-{seed}")
def test_rows_and_windows_one_after_the_other_give_what_is_simulated(
    mobile: Sam, four: list[Sample], ranges: Ranges, monkeypatch: pytest.MonkeyPatch, seed: int | None, values: int
) -> None:
    monkeypatch.setattr(tiny_vit, "_VALUES", values)
    monkeypatch.setattr(tiny_vit, "_LOGITS", values)
    plan = uniform(mobile, 8, 8) if seed is None else half_mixture(mobile, seed=seed)
    model = nearest(mobile, plan, ranges)
    assert same(integer_model(model), model, four[:2])


@integer_kernels
def test_a_gelu_in_a_pass_of_its_own_gives_the_same(
    mobile: Sam, samples: list[Sample], ranges: Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nearest(mobile, uniform(mobile, 8, 8), ranges)
    monkeypatch.setattr(kernels, "has_exact_gelu", lambda: False)
    assert same(integer_model(model), model, samples[:1])


@pytest.fixture(scope="module")
def directory(
    mobile: Sam, samples: list[Sample], ranges: Ranges, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BitPlan, Sam]:
    plan = mixture(mobile, seed=5)
    model = nearest(mobile, plan, ranges)
    folder = tmp_path_factory.mktemp("quantized")
    save_model(model, Manifest.of(model, plan, recipe="omse", prompts_per_image=1), folder)
    return folder, plan, model


@pytest.mark.filterwarnings("ignore:No gradients flow:RuntimeWarning")
def test_a_model_whose_parameters_want_gradients_computes_the_same(
    mobile: Sam, samples: list[Sample], ranges: Ranges
) -> None:
    plan = BitPlan.uniform(mobile.costs().units, UnitBits(8, 8))
    # Its float parameters are those of all tests.
    model = deepcopy(integer_model(nearest(mobile, plan, ranges)).model)
    side = model.config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(pixel_values=pixels, input_boxes=torch.tensor([[[5.0, 5.0, 30.0, 30.0]]])).pred_masks
    model.requires_grad_(True)
    found = model(pixel_values=pixels, input_boxes=torch.tensor([[[5.0, 5.0, 30.0, 30.0]]])).pred_masks
    torch.testing.assert_close(found.detach(), expected)


def test_transformers_loads_and_saves_it_as_it_is(
    directory: tuple[Path, BitPlan, Sam], samples: list[Sample], tmp_path: Path
) -> None:
    folder, plan, model = directory
    found = AutoModel.from_pretrained(folder)
    assert type(found) is MobileSamModel
    assert same(replace(model, model=found), model, samples)
    found.save_pretrained(tmp_path)
    again, manifest = load_model(tmp_path)
    assert manifest.plan(model.costs()).bits == plan.bits
    first, second = (stored_tensors(one.model, one.rest) for one in (model, again))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_dequantized_convolutions_keep_their_form(
    directory: tuple[Path, BitPlan, Sam], mobile: Sam, samples: list[Sample]
) -> None:
    folder, _, model = directory
    found = AutoModel.from_pretrained(folder).dequantize()
    stored = {name: module for name, module in model.model.named_modules() if isinstance(module, StoredLayer)}
    for name, module in stored.items():
        plain, source = found.get_submodule(name), mobile.model.get_submodule(name)
        assert torch.equal(plain.weight, module.stored.dequantize())
        if isinstance(source, nn.Conv2d):
            for part in ("kernel_size", "stride", "padding", "dilation", "groups", "in_channels"):
                assert getattr(plain, part) == getattr(source, part), (name, part)
    assert torch.isfinite(logits_of(replace(model, model=found), samples[0])).all()


def test_a_directory_with_one_grid_for_a_depthwise_input_is_still_read(
    mobile: Sam, samples: list[Sample], ranges: Ranges, tmp_path: Path
) -> None:
    plan = uniform(mobile, 4, 8)
    model = nearest(mobile, plan, replace(ranges, channels={}))
    assert set(inputs_of(model).values()) == {Quantizer}
    save_model(model, Manifest.of(model, plan, recipe="omse", prompts_per_image=1), tmp_path)
    for integer in (False, True):
        assert same(load_model(tmp_path, integer=integer)[0], model, samples)


def test_a_depthwise_unit_left_in_float_stays_so(mobile: Sam, samples: list[Sample], ranges: Ranges) -> None:
    unit = depthwise_units(mobile)[0]
    plan = BitPlan({**uniform(mobile, 4, 4).bits, unit: FLOAT})
    model = nearest(mobile, plan, ranges)
    assert isinstance(model.model.get_submodule(unit), nn.Conv2d)
    assert torch.isfinite(logits_of(model, samples[0])).all()


@pytest.mark.parametrize("elements", [1 << 26, 40_000], ids=["one batch", "by few"])
def test_variants_are_right_whatever_the_batch(
    mobile: Sam, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    monkeypatch.setattr(variants, "_MAX_ELEMENTS", elements)
    names = [unit.name for unit in mobile.costs().units if unit.part == "encoder"][:12]
    prefix = run_prefix(mobile, samples[0])
    sizes = []
    for indices, logits in run_variants(mobile, prefix, [Variant({name: zero}) for name in names]):
        sizes.append(len(indices))
        for index, found in zip(indices, logits, strict=True):
            expected = logits_of(mobile, samples[0], zeroed=(names[index],))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=names[index])
    # conv1 of the first block gives 24 × 24 places of 32 channels.
    assert max(sizes) > 2 if elements > 40_000 else sizes[:2] == [2, 1]


def test_sensitivity_is_measured_on_the_grids_of_channels(
    mobile: Sam, samples: list[Sample], ranges: Ranges, tmp_path: Path
) -> None:
    unit = depthwise_units(mobile)[0]

    def inputs(some: Ranges) -> list[float]:
        found = analyze(
            mobile,
            samples[:1],
            ranges=some,
            weights=WeightGrids(mobile, observer="omse"),
            options=MeasurementOptions(pairs=False, sensitivity_bits=(3,)),
            cache=Cache(tmp_path),
            progress=Silent(),
        )
        place = [one.name for one in found.units].index(unit)
        assert found.units[place].operands[1] == "input"
        return [float(values[place, 1, 0]) for values in found.sensitivity.values()]

    assert inputs(ranges) != inputs(replace(ranges, channels={}))


@pytest.mark.parametrize("recipe", ["omse", "compensated"])
def test_units_of_16_bits_are_quantized_and_saved_to_the_last_bit(
    mobile: Sam, samples: list[Sample], tmp_path: Path, recipe: str
) -> None:
    depthwise = depthwise_units(mobile)
    pairs = [UnitBits(*pair) for pair in ((16, 16), (4, 16), (16, 4), (8, 8))]
    plan = BitPlan({**half_mixture(mobile, seed=4).bits, **{name: pairs[i % 4] for i, name in enumerate(depthwise)}})
    found = run(mobile, plan, samples, recipe=recipe, cache=tmp_path / "cache").sam
    for name in depthwise:
        expected = Unquantized if plan.bits[name].activation == 16 else ChannelQuantizer
        assert inputs_of(found)[name] is expected
    folder = tmp_path / "out"
    folder.mkdir()
    file_bytes = save_model(found, Manifest.of(found, plan, recipe=recipe, prompts_per_image=1), folder)
    header = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little") + 8
    theory = mobile.costs().size(plan)
    assert theory <= file_bytes - header <= 1.01 * theory + 200
    for integer in (False, True):
        assert same(load_model(folder, integer=integer)[0], found, samples)
