from pathlib import Path

import pytest
import torch
from benchmarks.hardened import harden

from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.numeric.modules import QuantizedLayer
from mixqsam.options.names import DEFAULT_RECIPE
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization import meter
from mixqsam.quantization.custom import CustomRecipe
from mixqsam.quantization.nearest import draft
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.recipes import find_recipe
from mixqsam.quantization.steps import folding
from mixqsam.quantization.steps.folding import fold_norms
from mixqsam.quantization.steps.outliers import fold_outliers
from mixqsam.sam.forward import encode, make_frame
from mixqsam.sam.load import Sam
from mixqsam.sam.norms import find_read_norms
from tests.oracles import logits_of

ROUNDED = Recipe("rounded", "", "")
FOLDED = Recipe("folded", "", "", rewrite=fold_norms)


def plan_of(sam: Sam, weight: int, activation: int) -> BitPlan:
    return BitPlan.uniform(sam.costs().units, UnitBits(weight, activation))


def fold(sam: Sam, samples: list[Sample], folder: Path, *, bits: tuple[int, int] = (4, 4)) -> Sam:
    return fold_norms(sam, plan_of(sam, *bits), samples, Cache(folder), Silent())


def changed_norms(before: Sam, after: Sam) -> list[str]:
    norms = [norm.name for norm in find_read_norms(before.config)]
    return [n for n in norms if after.model.get_submodule(n) is not before.model.get_submodule(n)] and [
        n
        for n in norms
        if not torch.equal(after.model.get_submodule(n).weight, before.model.get_submodule(n).weight)
        or not torch.equal(after.model.get_submodule(n).bias, before.model.get_submodule(n).bias)
    ]


def test_folding_leaves_the_outputs_as_they_were(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    folded = fold(sam, samples, tmp_path)
    assert changed_norms(sam, folded)
    for sample in samples:
        assert torch.allclose(logits_of(folded, sample), logits_of(sam, sample), atol=1e-4, rtol=1e-4)
    # What is not folded is shared.
    assert folded.model.vision_encoder.pos_embed is sam.model.vision_encoder.pos_embed


def test_a_hard_twin_computes_what_its_model_computes(sam: Sam, samples: list[Sample]) -> None:
    twin = harden(sam)
    assert len(changed_norms(sam, twin)) == len(find_read_norms(sam.config))
    for sample in samples:
        assert torch.allclose(logits_of(twin, sample), logits_of(sam, sample), atol=1e-4, rtol=1e-4)


def error(sam: Sam, reference: Sam, samples: list[Sample], *, recipe: Recipe, cache: Cache) -> float:
    found = quantize(sam, plan_of(sam, 8, 6), samples, recipe=recipe, cache=cache, progress=Silent()).sam
    frame = make_frame(reference, samples[0].open())
    exact = encode(reference, frame)["embedding"]
    difference: torch.Tensor = encode(found, frame)["embedding"] - exact
    return float(difference.square().mean() / exact.var())


def test_folding_mends_a_hard_twin_and_costs_the_plain_model_nothing(
    sam: Sam, samples: list[Sample], tmp_path: Path
) -> None:
    cache, twin = Cache(tmp_path), harden(sam)
    plain = error(sam, sam, samples, recipe=ROUNDED, cache=cache)
    assert error(twin, sam, samples, recipe=ROUNDED, cache=cache) > 3 * plain
    assert error(twin, sam, samples, recipe=FOLDED, cache=cache) < 1.5 * plain
    assert error(sam, sam, samples, recipe=FOLDED, cache=cache) < 1.1 * plain


def test_what_was_found_is_kept(
    sam: Sam, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fold(sam, samples, tmp_path)

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("nothing is measured twice")

    monkeypatch.setattr(folding, "find_folds", fail)
    again = fold(sam, samples, tmp_path)
    for name, parameter in first.model.named_parameters():
        assert torch.equal(parameter, again.model.get_parameter(name))
    # At other bits, other folds are the best.
    with pytest.raises(AssertionError, match="measured twice"):
        fold(sam, samples, tmp_path, bits=(4, 8))


def test_only_normalisations_with_outliers_are_folded_by_default(
    sam: Sam, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, plan, twin = Cache(tmp_path), plan_of(sam, 4, 4), harden(sam)
    assert find_recipe(DEFAULT_RECIPE).rewrite is fold_outliers
    assert fold_outliers(sam, plan, samples, cache, Silent()) is sam
    mended = fold_outliers(twin, plan, samples, cache, Silent())
    assert changed_norms(twin, mended) == changed_norms(twin, fold_norms(twin, plan, samples, cache, Silent()))
    monkeypatch.setattr(meter, "run_sample", None)
    assert fold_outliers(sam, plan, samples, cache, Silent()) is sam


def test_a_single_normalisation_with_outliers_is_folded_alone(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    norm = find_read_norms(sam.config)[1]
    factor = torch.ones(sam.model.get_submodule(norm.name).weight.shape)
    factor[3] = 1 / 40
    twin = draft(sam)
    folding.apply_fold(twin.model, norm, folding.Fold(torch.zeros_like(factor), factor))
    mended = fold_outliers(twin, plan_of(sam, 4, 4), samples, Cache(tmp_path), Silent())
    assert changed_norms(twin, mended) == [norm.name]


def test_a_recipe_of_the_user_does_several_rewrites(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    recipe = find_recipe(CustomRecipe(steps=("bimodal", "folding")))
    assert recipe.rewrite is not None
    both = recipe.rewrite(sam, plan_of(sam, 4, 4), samples, Cache(tmp_path), Silent())
    assert changed_norms(sam, both) == changed_norms(sam, fold(sam, samples, tmp_path / "alone"))


def test_units_of_16_bits_are_left_alone(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    assert changed_norms(sam, fold(sam, samples, tmp_path, bits=(16, 16))) == []


def test_the_quantized_layers_have_the_folded_weights(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    cache, plan = Cache(tmp_path), plan_of(sam, 8, 8)
    folded = fold_norms(sam, plan, samples, cache, Silent())
    found = quantize(sam, plan, samples, recipe=FOLDED, cache=cache, progress=Silent()).sam
    name = "vision_encoder.layers.1.mlp.lin1"
    layer = found.model.get_submodule(name)
    assert isinstance(layer, QuantizedLayer)
    exact = folded.model.get_submodule(name).weight
    stored = layer.stored.dequantize()
    assert float((stored - exact).abs().max() / exact.abs().max()) < 0.01
