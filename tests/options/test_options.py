"""Classes of options: flattened, assembled, checked; equal to what they name."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixqsam import plan
from mixqsam.allocation import program
from mixqsam.allocation.budget import Budget
from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.errors import BudgetError, InputError
from mixqsam.numeric.observers import OBSERVERS
from mixqsam.options import names
from mixqsam.options.bit_widths import parse_measured_bits, write_bits
from mixqsam.options.fields import Nested, Option
from mixqsam.options.flat import assemble, flat_values, flatten
from mixqsam.options.values import OptionClass
from mixqsam.pipeline.options import (
    AllocationOptions,
    AnalysisOptions,
    CompareRequest,
    Data,
    Evaluation,
    Options,
    QuantizationOptions,
)
from mixqsam.pipeline.tasks import DetectionOptions, OrientedData, SemanticData
from mixqsam.quantization.custom import CustomRecipe, parse_recipe
from mixqsam.quantization.recipes import METHODS, RECIPES, REWRITES, STEPS, find_recipe
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.sam.automatic_options import Automatic

CLASSES = [
    AllocationOptions,
    AnalysisOptions,
    Automatic,
    CompareRequest,
    CustomRecipe,
    Data,
    DetectionOptions,
    Evaluation,
    Options,
    OrientedData,
    QuantizationOptions,
    ReconstructionOptions,
    SemanticData,
]


def test_names_that_load_nothing_are_those_of_the_tables() -> None:
    assert tuple(RECIPES) == names.RECIPE_NAMES
    assert set(OBSERVERS) == set(get_args(names.Observer))
    assert STEPS.keys() | REWRITES.keys() == set(get_args(names.Step))
    assert METHODS.keys() == set(get_args(names.Reconstruction))
    assert get_args(names.Utility) == program.UTILITIES
    assert set(OUTPUTS) == set(get_args(names.OutputDistribution))
    assert plan.CANDIDATE_BITS == names.CANDIDATE_BITS


@pytest.mark.parametrize("owner", CLASSES)
def test_every_field_of_a_class_is_an_option_with_a_sentence(owner: type) -> None:
    entries = flatten(owner)
    assert entries
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.option.help[0].isupper() or entry.option.help[0].isdigit() or entry.option.help.startswith("W4A4")
        assert entry.option.help.endswith("."), entry


def test_classes_of_options_load_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, mixqsam.pipeline.options, mixqsam.sam.automatic_options\n"
        "assert not {'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_instance_is_assembled_from_its_flat_values() -> None:
    options = Options(
        AnalysisOptions(count=7, pairs=False, sensitivity_bits=(2, 4, 8), seed=3),
        AllocationOptions(utility="linear", synergy_weight=0.25, keep=("neck.*=8", "*.av=W8A4"), candidates=(2, 3, 4)),
        QuantizationOptions(
            CustomRecipe(steps=("hybrid",), method="qdrop"), ReconstructionOptions(seed=3, weight_rate=0.1 + 0.2)
        ),
    )
    flat = flat_values(options)
    assert flat["recipe"] == {
        "observer": "omse",
        "weight_observer": "omse",
        "steps": ["hybrid"],
        "method": "qdrop",
    }
    assert flat["candidates"] == "2-4"
    assert Options(**assemble(Options, flat)) == options
    assert Options(**assemble(Options, {})) == Options()


def test_a_job_has_one_seed_wherever_it_is_given() -> None:
    sampled = Options(analysis=AnalysisOptions(seed=7))
    fitted = Options(quantization=QuantizationOptions(reconstruction=ReconstructionOptions(seed=7)))
    assert sampled == fitted == Options(**assemble(Options, {"seed": 7}))
    assert (sampled.analysis.seed, sampled.quantization.reconstruction.seed) == (7, 7)
    assert flat_values(sampled)["seed"] == 7
    assert [entry.name for entry in flatten(Options)].count("seed") == 1
    with pytest.raises(InputError, match="the seed 7 and the reconstruction 8, but a job has one seed"):
        Options(AnalysisOptions(seed=7), quantization=QuantizationOptions(reconstruction=ReconstructionOptions(seed=8)))


def test_nested_options_have_a_prefix_leave_some_out_and_inherit() -> None:
    entries = {entry.name: entry for entry in flatten(Evaluation, Nested(prefix="eval_", without=("boxes",)))}
    assert list(entries) == [
        "eval_images",
        "eval_annotations",
        "eval_grid",
        "eval_skip_missing",
        "eval_limit",
    ]
    assert entries["eval_images"].flags == ("--eval-images",)
    assert not entries["eval_images"].is_required
    nested = Nested(prefix="eval_")
    given = {"images": Path("a"), "grid": 7, "eval_images": Path("b")}
    assert Evaluation(**assemble(Evaluation, given, nested)) == Evaluation(Data(Path("b"), grid=7))
    assert Evaluation(**assemble(Evaluation, given | {"skip_missing": True}, nested)).data == Data(
        Path("b"), grid=7, skip_missing=True
    )
    assert Evaluation(**assemble(Evaluation, {"grid": 7}, nested)) == Evaluation()
    assert Evaluation(**assemble(Evaluation, given | {"eval_grid": 2}, nested)).data == Data(Path("b"), grid=2)
    with pytest.raises(InputError, match=r"--eval-annotations: .* need the folder of their images; give --eval-images"):
        assemble(Evaluation, {"eval_annotations": Path("x.json")}, nested)


def test_recorded_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = Data(Path("photos"), annotations=Path("~/x.json"))
    assert flat_values(data) == {
        "images": str(tmp_path / "photos"),
        "annotations": str(Path("~/x.json").expanduser()),
        "grid": 4,
        "skip_missing": False,
    }


def made(owner: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """An instance of wrong values too, which types would not let through."""
    return owner(*given, **options)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: made(AllocationOptions, utility="best"), InputError, "utility 'best' is unknown; choose linear"),
        (lambda: made(AllocationOptions, synergy_weight=-1), InputError, "synergy_weight -1: at least 0"),
        (lambda: made(AllocationOptions, synergy_weight=float("nan")), InputError, "a number is expected"),
        (lambda: made(AllocationOptions, candidates=()), BudgetError, "is empty"),
        (lambda: made(AllocationOptions, candidates=(9,)), BudgetError, "go from 2 to 8"),
        (lambda: made(AllocationOptions, keep=("neck",)), BudgetError, "write PATTERN=BITS"),
        (lambda: made(AllocationOptions, keep="neck.*=9"), BudgetError, "go from 2 to 8"),
        (lambda: made(AnalysisOptions, count=0), InputError, "count 0: at least 1"),
        (lambda: made(AnalysisOptions, count=True), InputError, "a whole number is expected"),
        (lambda: made(AnalysisOptions, count=2.5), InputError, "a whole number is expected"),
        (lambda: made(AnalysisOptions, observer="x" * 999), InputError, "…"),
        (lambda: made(QuantizationOptions, recipe="best"), InputError, "'best' is unknown; choose minmax"),
        (lambda: made(QuantizationOptions, recipe=3), InputError, "a table of its parts, is expected"),
        (lambda: made(ReconstructionOptions, warmup=2), InputError, "warmup 2: at most 1"),
        (lambda: made(CustomRecipe, steps=("hybird",)), InputError, "steps 'hybird' is unknown"),
        (lambda: made(CustomRecipe, steps=3), InputError, "steps 3: a list is expected"),
        (lambda: made(Data, 7), InputError, "images 7: a path is expected"),
        (lambda: made(OrientedData, "a", "b", tile=100, overlap=100), InputError, "does not fit tiles"),
        (lambda: made(SemanticData, "a", "b", prompts="lines"), InputError, "'lines' is unknown"),
        (lambda: made(CompareRequest, budgets=["4"]), BudgetError, "did you mean W4A4"),
        (lambda: made(CompareRequest, budgets=[4]), BudgetError, "a text is expected"),
        (lambda: made(CompareRequest, modes=["mix"]), InputError, "modes 'mix' is unknown"),
        (lambda: made(CompareRequest, recipes=7), InputError, "a list of recipes"),
    ],
)
def test_values_that_an_option_cannot_have_are_refused_in_python_too(
    make: Callable[[], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600


def test_python_may_give_texts_where_values_are_meant() -> None:
    assert made(Data, "photos") == Data(Path("photos"))
    assert CompareRequest(budgets=["w4a4"]).budgets == (Budget.parse("w4a4"),)
    assert CompareRequest().budgets == (Budget.parse("W6A6"), Budget.parse("W4A4"))
    assert CompareRequest(recipes="all").recipes == tuple(RECIPES)
    assert made(AllocationOptions, candidates="2-4").candidates == (2, 3, 4)


@given(st.sets(st.sampled_from(plan.CANDIDATE_BITS)))
def test_bit_widths_are_read_as_they_were_written(bits: set[int]) -> None:
    assert parse_measured_bits(write_bits(tuple(sorted(bits))), "x") == tuple(sorted(bits))


def test_a_recipe_of_ones_own_is_made_of_parts() -> None:
    table = {"observer": "percentile", "weight-observer": "minmax", "steps": ["bimodal", "granularity"]}
    parts = parse_recipe(table, "recipe")
    assert isinstance(parts, CustomRecipe)
    recipe = find_recipe(parts)
    assert (recipe.observer, recipe.weight_observer, recipe.method) == ("percentile", "minmax", None)
    assert recipe.rewrite is REWRITES["bimodal"]
    assert recipe.steps == (STEPS["granularity"],)
    assert recipe.key == "custom+percentile+minmax+bimodal+granularity+nearest"
    learned = find_recipe(CustomRecipe(method="saq-sam"))
    assert learned.method is RECIPES["saq-sam"].method
    assert learned.least_images == RECIPES["saq-sam"].least_images
    with pytest.raises(InputError, match="recipe does not have 'wight_observer'; did you mean weight_observer?"):
        parse_recipe({"wight_observer": "minmax"}, "recipe")
    with pytest.raises(InputError, match="recipe: observer 'best' is unknown"):
        parse_recipe({"observer": "best"}, "recipe")


def test_a_field_without_an_option_is_not_one() -> None:
    @dataclass(frozen=True)
    class Odd(OptionClass):
        known: Annotated[int, Option("Known.")] = 1
        other: int = 2

    assert [entry.name for entry in flatten(Odd)] == ["known"]


def test_recipes_that_reconstruct_are_those_of_the_table() -> None:
    from mixqsam.options.names import RECONSTRUCTING_RECIPES
    from mixqsam.quantization.recipes import RECIPES

    assert [name for name, recipe in RECIPES.items() if recipe.method is not None] == list(RECONSTRUCTING_RECIPES)
