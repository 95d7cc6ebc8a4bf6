"""Units of 16 bits in files, in transformers and in the integer runtime."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import SamModel

from mixqsam.artifact.manifest import Manifest, parse_manifest
from mixqsam.artifact.store import load_model
from mixqsam.calibrate import Ranges, calibrate
from mixqsam.data.samples import Sample
from mixqsam.errors import ArtifactError
from mixqsam.numeric.half import HalfTensor, Unquantized
from mixqsam.numeric.modules import StoredLayer
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.nearest import draft
from mixqsam.runtime import packed
from mixqsam.runtime.attention import IntegerVisionAttention
from mixqsam.runtime.build import integer_model, simulated_units
from mixqsam.runtime.kernels import missing_kernels
from mixqsam.runtime.packed import PackedLayer
from mixqsam.sam.compact import compacted
from mixqsam.sam.load import Sam, load_sam
from tests.artifact.test_store import change_config, flip_a_byte, save
from tests.artifact.test_transformers import outputs, same
from tests.oracles import half_mixture, logits_of, mixture, nearest


@pytest.fixture(scope="module")
def ranges(sam: Sam, samples: list[Sample]) -> Ranges:
    return calibrate(sam, samples, observer="omse", progress=Silent())


@pytest.fixture
def saved(sam: Sam, ranges: Ranges, tmp_path: Path) -> Path:
    plan = half_mixture(sam, seed=1)
    save(nearest(sam, plan, ranges), plan, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("integer", [False, True], ids=["simulated", "integer"])
@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_loads_bit_identically(
    sam: Sam, samples: list[Sample], ranges: Ranges, tmp_path: Path, seed: int, integer: bool
) -> None:
    plan = half_mixture(sam, seed=seed)
    model = nearest(sam, plan, ranges)
    save(model, plan, tmp_path)
    again, manifest = load_model(tmp_path, integer=integer)
    assert manifest.format_version == 3
    assert manifest.plan(sam.costs()) == plan
    for sample in samples:
        assert torch.equal(logits_of(again, sample), logits_of(model, sample))
    save(again, plan, tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_weights_of_16_bits_have_no_scales_and_activations_no_tensors(sam: Sam, ranges: Ranges, tmp_path: Path) -> None:
    plan = half_mixture(sam, seed=1)
    save(nearest(sam, plan, ranges), plan, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for unit in sam.costs().units:
        bits = plan.bits[unit.name]
        if bits.is_float:
            continue
        for operand in unit.operands:
            stored = {name for name in tensors if name.startswith(f"{unit.name}.{operand}_")}
            assert bool(stored) == (bits.of(operand) < 16), (unit.name, operand)
        if unit.kind != "product" and bits.weight == 16:
            assert tensors[f"{unit.name}.weight"].dtype in {torch.float16, torch.bfloat16}
            assert tensors[f"{unit.name}.weight"].shape == (unit.parameters,)


@pytest.mark.parametrize("bits", [UnitBits(16, 16), UnitBits(8, 16), UnitBits(4, 16), UnitBits(16, 8), None], ids=str)
def test_the_file_is_as_small_as_its_bits_claim(bits: UnitBits | None, tmp_path: Path) -> None:
    sam = load_sam("sam-tiny")
    plan = BitPlan.uniform(sam.costs().units, bits) if bits else half_mixture(sam, seed=3)
    values = {
        unit.name: {operand: dict.fromkeys(range(2, 9), (-1.0, 1.0)) for operand in unit.activations}
        for unit in sam.costs().units
    }
    file_bytes = save(nearest(sam, plan, Ranges("minmax", values)), plan, tmp_path)
    header = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little") + 8
    theory = sam.costs().size(plan)
    assert theory <= file_bytes - header <= 1.001 * theory + 200
    assert file_bytes <= 1.02 * theory + header


def test_w16a16_is_the_float_model_but_for_rounding_to_half_precision(
    sam: Sam, samples: list[Sample], ranges: Ranges
) -> None:
    units = sam.costs().units
    model = nearest(sam, BitPlan.uniform(units, UnitBits(16, 16)), ranges)
    layers = [module for module in model.model.modules() if isinstance(module, StoredLayer)]
    assert all(isinstance(layer.stored, HalfTensor) and isinstance(layer.input, Unquantized) for layer in layers)
    # With the tensors of no unit as they are stored.
    exact, found = logits_of(compacted(draft(sam)), samples[0]), logits_of(model, samples[0])
    coarse = logits_of(nearest(sam, BitPlan.uniform(units, UnitBits(8, 8)), ranges), samples[0])
    assert float((found - exact).abs().max()) < 0.1 * float((coarse - exact).abs().max())


def test_plans_without_16_bits_are_written_as_before(sam: Sam, ranges: Ranges) -> None:
    plan = mixture(sam, seed=1)
    assert Manifest.of(nearest(sam, plan, ranges), plan, recipe="omse", prompts_per_image=1).format_version == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"weight": 12, "activation": 4}, r"units.a.weight: .*expected 2 to 8, or 16"),
        ({"weight": 4, "activation": 32}, r"units.a.activation"),
        ({"weight": 4, "activation": 16, "quantizers": {"input": "log"}}, "input has 16 bits, and so no quantizer"),
        ({"weight": 16, "activation": 4, "quantizers": {"right": "log"}}, "right has 16 bits, and so no quantizer"),
    ],
)
def test_a_manifest_with_other_bits_is_refused(entry: dict[str, object], message: str) -> None:
    value = {"quant_method": "mixqsam", "format_version": 3, "source": "s", "recipe": "r", "units": {"a": entry}}
    with pytest.raises(ArtifactError, match=message):
        parse_manifest(value, source="config.json")


def test_an_altered_weight_is_named(saved: Path) -> None:
    units = json.loads((saved / "config.json").read_text())["quantization_config"]["units"]
    tensors = load_file(saved / "model.safetensors")
    name = next(f"{u}.weight" for u, e in units.items() if e["weight"] == 16 and f"{u}.weight" in tensors)
    flip_a_byte(saved, name)
    with pytest.raises(ArtifactError, match=rf"{name} was altered"):
        load_model(saved)


def test_bits_that_are_not_those_of_the_file_are_refused(saved: Path) -> None:
    units = json.loads((saved / "config.json").read_text())["quantization_config"]["units"]
    tensors = load_file(saved / "model.safetensors")
    name = next(u for u, e in units.items() if e["weight"] == 16 and f"{u}.weight" in tensors)
    change_config(saved, units=units | {name: units[name] | {"weight": 8}})
    with pytest.raises(ArtifactError, match=name):
        load_model(saved)


def test_from_pretrained_and_save_pretrained_keep_it(saved: Path, tmp_path: Path) -> None:
    model = SamModel.from_pretrained(saved)
    layers = [module for module in model.modules() if isinstance(module, PackedLayer)]
    assert {layer.bits for layer in layers} == {4, 8, 16}
    assert same(model, load_model(saved)[0].model)
    model.save_pretrained(tmp_path / "copy")
    # transformers writes the metadata in an order that changes from run to run.
    copy, original = (load_file(folder / "model.safetensors") for folder in (tmp_path / "copy", saved))
    assert copy.keys() == original.keys()
    assert all(torch.equal(copy[name], tensor) for name, tensor in original.items())
    assert same(SamModel.from_pretrained(tmp_path / "copy"), model)


def test_dequantized_weights_are_those_of_the_file(saved: Path) -> None:
    model = SamModel.from_pretrained(saved)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, PackedLayer)}
    weights = {name: layer.stored.dequantize() for name, layer in layers.items() if layer.bits == 16}
    assert weights
    plain = model.dequantize()
    for name, weight in weights.items():
        assert torch.equal(plain.get_submodule(name).weight, weight)
    assert all(torch.isfinite(values).all() for values in outputs(plain))


@pytest.mark.skipif(missing_kernels() is not None, reason=f"no integer kernels here: {missing_kernels()}")
def test_units_of_16_bits_are_computed_in_float_and_named(
    sam: Sam, samples: list[Sample], ranges: Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_LEAST_PRODUCTS", 0)
    units = sam.costs().units
    # One attention, one half of an MLP.
    half = {u.name: UnitBits(8, 16) for u in units if u.name.endswith("layers.0.attn.qk")}
    half |= {u.name: UnitBits(16, 8) for u in units if u.name.endswith("vision_encoder.layers.1.mlp.lin2")}
    assert len(half) == 2
    plan = BitPlan({**BitPlan.uniform(units, UnitBits(8, 8)).bits, **half})
    model = nearest(sam, plan, ranges)
    integer = integer_model(model)
    reasons = dict(simulated_units(integer.model))
    first, second = half
    assert reasons[first] == "its activations have 16 bits and are not quantized"
    assert reasons[second] == "its weights have 16 bits"
    assert sum(isinstance(m, IntegerVisionAttention) for m in integer.model.modules()) > 0
    for sample in samples:
        assert torch.equal(logits_of(integer, sample), logits_of(model, sample))
