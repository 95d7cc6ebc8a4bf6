"""What is promised of every recipe (docs/method.md, “Honest numbers”)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.packed import stored_tensors
from mixqsam.artifact.store import load_model, save_model
from mixqsam.data.samples import Sample
from mixqsam.errors import HonestyError, InputError, MixqsamError
from mixqsam.files import Cache
from mixqsam.numeric.honesty import check_model
from mixqsam.numeric.modules import Product, QuantizedLayer
from mixqsam.numeric.quantizers import ActivationQuantizer, GroupedQuantizer
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.recipes import RECIPES, find_recipe
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.quantization.steps.grouping import ChannelGrouping
from mixqsam.sam.load import Sam, load_sam
from tests.oracles import logits_of, mixture

QUICK = ReconstructionOptions(iterations=6)


def plans(sam: Sam) -> Iterator[tuple[str, BitPlan]]:
    yield "uniform", BitPlan.uniform(sam.costs().units, UnitBits(3, 4))
    yield "mixed", mixture(sam, seed=7)


def quantize_quickly(sam: Sam, plan: BitPlan, samples: list[Sample], *, recipe: str, cache: Cache) -> Sam:
    return quantize(sam, plan, samples, recipe=RECIPES[recipe], cache=cache, progress=Silent(), options=QUICK).sam


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Recipes with the same observer calibrate once."""
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", params=[f"{name}-{mode}" for name in RECIPES for mode in ("uniform", "mixed")])
def made(request: pytest.FixtureRequest, sam: Sam, four: list[Sample], cache: Cache) -> tuple[str, BitPlan, Sam]:
    """A recipe's name, a plan, and the model that the recipe makes of it."""
    name, _, mode = request.param.rpartition("-")
    plan = dict(plans(sam))[mode]
    return name, plan, quantize_quickly(sam, plan, four, recipe=name, cache=cache)


def test_each_quantizer_emits_at_most_2_to_the_b_values_in_evaluation(
    made: tuple[str, BitPlan, Sam], four: list[Sample]
) -> None:
    _, plan, model = made
    seen: dict[str, list[torch.Tensor]] = {}
    quantizers = {n: m for n, m in model.model.named_modules() if isinstance(m, ActivationQuantizer)}
    for name, module in quantizers.items():
        # What the module really returns, dropping or not, on real activations.
        module.register_forward_hook(lambda m, i, o, name=name: seen.setdefault(name, []).append(o.detach()))
    for sample in four[:2]:
        logits_of(model, sample)
    for module in quantizers.values():
        module._forward_hooks.clear()
    quantized = [name for name, bits in plan.bits.items() if not bits.is_float]
    products = [name for name in quantized if isinstance(model.model.get_submodule(name), Product)]
    assert len(quantizers) == len(quantized) + len(products)
    for name, outputs in seen.items():
        module = quantizers[name]
        width = outputs[0].shape[-1]
        flat = torch.cat([o.reshape(-1, width) for o in outputs])
        columns = [flat] if module.channels is None else flat.unbind(module.channel_axis)
        assert max(c.unique().numel() for c in columns) <= 2**module.bits, name
        assert module.groups <= 4
    assert set(seen) == set(quantizers)


def test_every_unit_has_its_bits_and_every_weight_is_on_its_grid(made: tuple[str, BitPlan, Sam]) -> None:
    _, plan, model = made
    check_model(model.model, plan)
    for name, bits in plan.bits.items():
        module = model.model.get_submodule(name)
        if bits.is_float:
            assert type(module) in {nn.Linear, nn.Conv2d, Product}
        elif isinstance(module, QuantizedLayer):
            rows = module.weight.reshape(module.weight.shape[0], -1)
            assert max(row.unique().numel() for row in rows) <= 2**bits.weight, name
            assert torch.equal(rows, rows.round()), name
    # Nothing soft is left of a reconstruction.
    assert not [type(m).__name__ for m in model.model.modules() if "reconstruction" in type(m).__module__]


def test_saving_and_loading_gives_the_same_model_of_the_reported_size(
    made: tuple[str, BitPlan, Sam], sam: Sam, four: list[Sample], tmp_path: Path
) -> None:
    name, plan, model = made
    manifest = Manifest.of(model, plan, recipe=name, prompts_per_image=1)
    file_bytes = save_model(model, manifest, tmp_path)
    again, read = load_model(tmp_path)
    assert read == manifest
    assert read.plan(sam.costs()).bits == plan.bits
    for sample in four[:2]:
        assert torch.equal(logits_of(again, sample), logits_of(model, sample))
    costs = sam.costs()
    costs = replace(costs, extra_bytes=RECIPES[name].extra_bytes(costs.units))
    header = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little") + 8
    payload, theory = file_bytes - header, costs.size(plan)
    # Bit streams are filled up to whole bytes; a grouped quantizer may need fewer groups than it may have.
    slack = 15 * sum(isinstance(m, GroupedQuantizer) for m in model.model.modules())
    assert theory - slack <= payload <= theory + len(plan.bits)


@pytest.mark.parametrize("made", [f"{name}-mixed" for name in RECIPES], indirect=True)
def test_two_runs_are_identical_and_the_float_model_is_untouched(
    made: tuple[str, BitPlan, Sam], sam: Sam, four: list[Sample], tmp_path: Path
) -> None:
    name, plan, model = made
    again = quantize_quickly(load_sam(sam.source), plan, four, recipe=name, cache=Cache(tmp_path / "another"))
    first, second = (stored_tensors(one.model, one.rest) for one in (model, again))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert torch.equal(logits_of(again, four[0]), logits_of(model, four[0]))
    assert sam.fingerprint == load_sam(sam.source).fingerprint
    assert not any(isinstance(m, QuantizedLayer | ActivationQuantizer) for m in sam.model.modules())


def test_a_half_finished_model_is_dishonest(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
    model = quantize(sam, plan, four, recipe=RECIPES["omse"], cache=Cache(tmp_path), progress=Silent()).sam
    unit = "vision_encoder.layers.0.mlp.lin1"
    other = BitPlan({**plan.bits, unit: UnitBits(3, 4)})
    with pytest.raises(HonestyError, match=r"layers.0.mlp.lin1 is to be W3A4 but is W4A4"):
        check_model(model.model, other)
    model.model.set_submodule(unit, sam.model.get_submodule(unit))
    with pytest.raises(HonestyError, match=r"layers.0.mlp.lin1 is to be W4A4 but is float"):
        check_model(model.model, plan)


def test_grouped_channels_are_merged_without_reconstruction_too(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
    recipe = Recipe("grouped", "", "", steps=(ChannelGrouping(),))
    model = quantize(sam, plan, four, recipe=recipe, cache=Cache(tmp_path), progress=Silent()).sam
    found = [m for m in model.model.modules() if isinstance(m, GroupedQuantizer)]
    assert found
    assert all(len(one.scale) <= 4 for one in found)


def test_every_recipe_has_its_section_and_its_row() -> None:
    page = (Path(__file__).parents[2] / "docs/recipes.md").read_text(encoding="utf-8")
    heading = "\n## "
    sections = {one.partition("\n")[0]: one for one in page.split(heading)[1:]}
    for name in RECIPES:
        assert "**Source.**" in sections[name]
        assert f"| [{name}](#{name}) |" in page
    assert [name for name in RECIPES if name not in sections] == []


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="'gptq' is unknown; choose minmax, percentile, omse, adaround, brecq, qdrop"):
        find_recipe("gptq")


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.method])
def test_too_few_images_are_refused_before_any_work(sam: Sam, four: list[Sample], tmp_path: Path, name: str) -> None:
    plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
    with pytest.raises(InputError, match=f"{name} needs at least 4 calibration images, there are 3"):
        quantize(sam, plan, four[:3], recipe=RECIPES[name], cache=Cache(tmp_path), progress=Silent())
    assert not list(tmp_path.iterdir())


def test_a_recipe_that_does_not_fit_a_unit_names_it(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
    flat = quantize(sam, sam.costs().float_plan, four, recipe=RECIPES["omse"], cache=Cache(tmp_path), progress=Silent())
    layer = flat.sam.model.vision_encoder.layers[0].mlp.lin1
    layer.weight, layer.bias = (nn.Parameter(torch.zeros_like(p)) for p in (layer.weight, layer.bias))
    with pytest.raises(MixqsamError, match=r"layers.0.mlp.lin2: its input is constant; a hybrid quantizer"):
        quantize(flat.sam, plan, four, recipe=RECIPES["ahcptq"], cache=Cache(tmp_path), progress=Silent())
