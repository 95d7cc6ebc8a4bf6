"""What a user asks for: frozen classes whose fields are the options of the command line and of Python.

Loads neither torch nor numpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from mixqsam.errors import InputError
from mixqsam.options import names
from mixqsam.options.bit_widths import parse_measured_bits, write_bits
from mixqsam.options.fields import Nested, Option
from mixqsam.options.values import OptionClass, quote
from mixqsam.pipeline.bits import AllocationOptions, BudgetValue, parse_budget
from mixqsam.pipeline.data import Data, Evaluation
from mixqsam.pipeline.presets import PRESETS, Preset, parse_preset, write_preset
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.sharing import SharingOptions
from mixqsam.pipeline.tasks import OrientedData, SemanticData
from mixqsam.quantization.custom import CustomRecipe, parse_recipe, write_recipe
from mixqsam.quantization.reconstruction.method import ReconstructionOptions

__all__ = [
    "AllocationOptions",
    "AnalysisOptions",
    "BudgetValue",
    "CompareRequest",
    "Data",
    "Evaluation",
    "EvaluationOptions",
    "JobOptions",
    "Options",
    "OrientedData",
    "QuantizationOptions",
    "SemanticData",
    "Session",
    "SharingOptions",
    "Source",
]

_ANALYSIS = "Analysis"


def _complete_recipe(typed: str) -> list[str]:
    return [name for name in names.RECIPE_NAMES if name.startswith(typed)]


def _parse_recipes(value: Any, label: str) -> tuple[str | CustomRecipe, ...]:
    if value == "all":
        return names.RECIPE_NAMES
    parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise InputError(f"{label} {quote(value)}: a list of recipes is expected.")
    return tuple(parse_recipe(part, label) for part in parts)


def _write_recipes(recipes: Sequence[str | CustomRecipe]) -> list[Any]:
    return [write_recipe(recipe) for recipe in recipes]


@dataclass(frozen=True)
class AnalysisOptions(OptionClass):
    """Options of the analysis.

    Attributes:
        count: number of calibration images.
        prompts: maximum number of prompts of each image.
        observer: observer of the ranges for the sensitivity; `quantize` takes the recipe's.
        importance: measure importance and the synergy estimator `proximity`.
        pairs: also measure the synergy estimator `interaction`.
        sensitivity_bits: bit-widths of the sensitivity for the `measured` utility; empty for no measurement.
        fisher: P_Y definitions of the `fisher` utility; empty for no measurement.
        fisher_draws: draws of the output for the `fisher` utility, over all images.
        seed: random seed of the sample of calibration images.
    """

    count: Annotated[
        int, Option("Number of calibration images.", flags=("--count", "-n"), panel=_ANALYSIS, minimum=1)
    ] = 32
    prompts: Annotated[
        int, Option("Maximum number of prompts per calibration image.", panel=_ANALYSIS, minimum=1, is_advanced=True)
    ] = 4
    observer: Annotated[
        names.Observer, Option("How ranges of activations are found.", panel=_ANALYSIS, is_advanced=True)
    ] = "omse"
    importance: Annotated[
        bool,
        Option(
            "Measure importance and the synergy estimator 'proximity'.",
            flags=("--importance/--no-importance",),
            panel=_ANALYSIS,
            is_advanced=True,
        ),
    ] = True
    pairs: Annotated[
        bool,
        Option(
            "Measure the synergy estimator 'interaction' too.",
            flags=("--pairs/--no-pairs",),
            panel=_ANALYSIS,
            is_advanced=True,
        ),
    ] = True
    sensitivity_bits: Annotated[
        tuple[int, ...],
        Option(
            "Bit-widths at which the sensitivity is measured, for --utility measured; '' for none.",
            panel=_ANALYSIS,
            is_list=True,
            parse=parse_measured_bits,
            write=write_bits,
            is_advanced=True,
        ),
    ] = (2, 4, 8)
    seed: Annotated[int, Option("Random seed.", panel=_ANALYSIS, is_advanced=True)] = 0
    fisher: Annotated[
        tuple[names.OutputDistribution, ...],
        Option(
            "Output distributions for which --utility fisher is measured; '' for none.",
            panel=_ANALYSIS,
            is_list=True,
            is_advanced=True,
        ),
    ] = names.OUTPUT_DISTRIBUTIONS
    fisher_draws: Annotated[
        int,
        Option("Backward passes of --utility fisher, over all images.", panel=_ANALYSIS, minimum=1, is_advanced=True),
    ] = 32


@dataclass(frozen=True)
class QuantizationOptions(OptionClass):
    """Options of the quantization with a bit plan.

    Attributes:
        recipe: name of a recipe, or a custom recipe.
        reconstruction: options of the reconstruction, for recipes with one.
    """

    recipe: Annotated[
        str | CustomRecipe,
        Option(
            "How to quantize; `mixqsam recipes` lists them.",
            flags=("--recipe", "-r"),
            parse=parse_recipe,
            write=write_recipe,
            complete=_complete_recipe,
        ),
    ] = names.DEFAULT_RECIPE
    reconstruction: ReconstructionOptions = field(default_factory=ReconstructionOptions)


@dataclass(frozen=True)
class Options(OptionClass):
    """All options of a job.

    A job has one seed. The analysis, the reconstruction or both may set it; then both use it.

    Attributes:
        analysis: options of analysis and calibration.
        allocation: options of the choice of bits.
        quantization: recipe and options of the reconstruction.
        sharing: what the directory holds for others.
        uniform: also make the largest uniform model within the budget, for the comparison; None where that is quick.
        preset: a published configuration, e.g. `mix-qsam`; options that differ from their defaults win.
    """

    analysis: AnalysisOptions = field(default_factory=AnalysisOptions)
    allocation: AllocationOptions = field(default_factory=AllocationOptions)
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)
    sharing: SharingOptions = field(default_factory=SharingOptions)
    uniform: Annotated[
        bool | None,
        Option(
            "Also make the largest uniform model within the budget, and compare with it.",
            flags=("--uniform/--no-uniform",),
            is_advanced=True,
            default_help="where it is quick: without learning, and compensated up to 20 million weights",
        ),
    ] = None
    preset: Annotated[
        str | Preset | None,
        Option(
            f"Published configuration of the choice of bits: {', '.join(PRESETS)}. Options beside it win.",
            panel="Allocation",
            parse=parse_preset,
            write=write_preset,
            is_advanced=True,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Check all values, and set the seed of all parts.

        Raises:
            InputError: the parts have different seeds.
        """
        super().__post_init__()
        reconstruction = self.quantization.reconstruction
        seed = self.analysis.seed or reconstruction.seed
        if reconstruction.seed not in (0, seed):
            raise InputError(
                f"The analysis has the seed {seed} and the reconstruction {reconstruction.seed}, but a job has one "
                "seed; give both the same."
            )
        quantization = replace(self.quantization, reconstruction=replace(reconstruction, seed=seed))
        object.__setattr__(self, "analysis", replace(self.analysis, seed=seed))
        object.__setattr__(self, "quantization", quantization)


@dataclass(frozen=True)
class CompareRequest(OptionClass):
    """Request of a comparison.

    Attributes:
        recipes: names of recipes, or custom recipes.
        budgets: limits of size and BitOps.
        modes: `uniform`, `mixed` or both.
        options: options of all stages; their recipe is ignored.
    """

    recipes: Annotated[
        Sequence[Any],
        Option(
            "Names, separated by commas, or all; `mixqsam recipes` lists them.",
            flags=("--recipes", "-r"),
            is_list=True,
            parse=_parse_recipes,
            write=_write_recipes,
        ),
    ] = ("minmax", "percentile", "omse", "ptq4sam-s")
    budgets: Annotated[
        Sequence[Any],
        Option("As for quantize; may be repeated.", flags=("--budget", "-b"), parse=parse_budget, write=str),
    ] = ("W6A6", "W4A4")
    modes: Annotated[Sequence[names.Mode], Option("Kinds of bits, separated by commas.", is_list=True)] = (
        "uniform",
        "mixed",
    )
    options: Annotated[Options, Nested(without=("observer", "recipe", "license", "no_images", "uniform"))] = field(
        default_factory=Options
    )


# A job has one flat list of options: the recipe names the observer, and options of the evaluation have a prefix.
JobOptions = Annotated[Options, Nested(without=("observer",))]
EvaluationOptions = Annotated[Evaluation, Nested(prefix="eval_", is_advanced=True, purpose="Evaluation")]
