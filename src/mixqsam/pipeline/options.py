"""What a user asks for: frozen classes whose fields are the options of the command line and of Python.

Loads neither torch nor numpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mixqsam.errors import AnnotationError, BudgetError, InputError
from mixqsam.options import names
from mixqsam.options.fields import Nested, Option
from mixqsam.options.parse import parse_candidates, parse_measured_bits, write_bits
from mixqsam.options.values import OptionClass, quote
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.tasks import OrientedData, SemanticData
from mixqsam.progress import Progress
from mixqsam.quantization.custom import CustomRecipe, parse_recipe, write_recipe
from mixqsam.quantization.reconstruction.method import ReconstructionOptions

if TYPE_CHECKING:
    from mixqsam.allocation.budget import Budget
    from mixqsam.allocation.program import Objective
    from mixqsam.data.samples import Sample

__all__ = [
    "AllocationOptions",
    "AnalysisOptions",
    "BudgetValue",
    "CompareRequest",
    "Data",
    "Evaluation",
    "EvaluationImages",
    "JobOptions",
    "Options",
    "OrientedData",
    "QuantizationOptions",
    "SemanticData",
    "Session",
    "Source",
]

_IMAGES, _ANALYSIS, _ALLOCATION = "Images", "Analysis", "Allocation"


def _complete_recipe(typed: str) -> list[str]:
    return [name for name in names.RECIPE_NAMES if name.startswith(typed)]


def _parse_budget(value: Any, label: str) -> "Budget":
    """A budget's text, or a budget → the value.

    Raises:
        BudgetError: it cannot be understood.
    """
    from mixqsam.allocation.budget import Budget  # noqa: PLC0415  (loads numpy)

    if not isinstance(value, str | Budget):
        raise BudgetError(f"{label} {quote(value)}: a text is expected, e.g. 'W4A4' or '12.5MB'.")
    return Budget.parse(value)


def _check_rule(value: Any, label: str) -> str:
    """A rule that fixes bits, as it is, if it can be understood.

    Raises:
        BudgetError: it cannot.
    """
    from mixqsam.allocation.budget import split_rule  # noqa: PLC0415  (loads numpy)

    if not isinstance(value, str):
        raise BudgetError(f"{label} {quote(value)}: a text is expected, e.g. 'neck.*=8'.")
    split_rule(value)
    return value


def _parse_recipes(value: Any, label: str) -> tuple[str | CustomRecipe, ...]:
    if value == "all":
        return names.RECIPE_NAMES
    parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise InputError(f"{label} {quote(value)}: a list of recipes is expected.")
    return tuple(parse_recipe(part, label) for part in parts)


def _write_recipes(recipes: Sequence[str | CustomRecipe]) -> list[Any]:
    return [write_recipe(recipe) for recipe in recipes]


# A budget is a value of `mixqsam.allocation.budget`, which loads numpy.
BudgetValue = Annotated[
    Any,
    Option(
        "W4A4 (what that uniform model costs), 12.5MB, 0.2x, bitops=3T, bitops=0.03x; several by commas. "
        "uniform:W4A4 gives all units the same bits.",
        flags=("--budget", "-b"),
        parse=_parse_budget,
        write=str,
    ),
]


@dataclass(frozen=True)
class Data(OptionClass):
    """Images and their prompts.

    Attributes:
        images: a folder of images.
        annotations: a COCO file for them; without it each image is prompted with a grid of points.
        boxes: a COCO-results file whose boxes take the place of the annotations' boxes.
        grid: points per side of the grid.
    """

    images: Annotated[Path, Option("Folder of images (jpg, png, webp).", flags=("--images", "-i"))]
    annotations: Annotated[
        Path | None, Option("COCO annotation file of the images. Its boxes are the prompts.", panel=_IMAGES)
    ] = None
    boxes: Annotated[Path | None, Option("COCO-results JSON whose boxes are the prompts.", panel=_IMAGES)] = None
    grid: Annotated[
        int,
        Option(
            "Prompt with GRID × GRID points where there are no annotations.",
            panel=_IMAGES,
            minimum=1,
            maximum=64,
            is_advanced=True,
        ),
    ] = 4

    def samples(self, *, count: int | None, progress: Progress) -> "list[Sample]":
        """All samples, or (in a folder) the first `count`."""
        from mixqsam.data.coco import annotated_samples  # noqa: PLC0415  (loads numpy)
        from mixqsam.data.samples import folder_samples  # noqa: PLC0415

        if self.annotations is not None:
            return annotated_samples(self.annotations, images=self.images, detections=self.boxes)
        if self.boxes is not None:
            raise AnnotationError("Detections need the annotation file that their image numbers belong to.")
        return folder_samples(self.images, count=count, grid=self.grid, progress=progress)


@dataclass(frozen=True)
class AnalysisOptions(OptionClass):
    """How a model is analysed.

    Attributes:
        count: calibration images.
        prompts: of each image, at most.
        observer: of the ranges that the sensitivity is measured with; `quantize` takes the recipe's.
        pairs: measure the synergy estimator `interaction` too.
        sensitivity_bits: where the `measured` utility is measured; empty for not at all.
    """

    count: Annotated[int, Option("Calibration images.", flags=("--count", "-n"), panel=_ANALYSIS, minimum=1)] = 32
    prompts: Annotated[
        int, Option("Maximum number of prompts per calibration image.", panel=_ANALYSIS, minimum=1, is_advanced=True)
    ] = 4
    observer: Annotated[
        names.Observer, Option("How ranges of activations are found.", panel=_ANALYSIS, is_advanced=True)
    ] = "omse"
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


@dataclass(frozen=True)
class AllocationOptions(OptionClass):
    """How bits are chosen; the defaults are those of docs/experiments.md.

    Attributes:
        output_distribution: P_Y definition.
        utility: u(b).
        synergy: estimator.
        synergy_weight: λ.
        tied: one bit-width for a unit's weight and activation.
        candidates: bit-widths to choose from.
        keep: fixed bits by pattern.
        prompts_per_image: in the BitOps; None for the analysis's own.
        time_limit: seconds for solving.
    """

    output_distribution: Annotated[
        names.OutputDistribution,
        Option("Distribution of the model's output, P_Y.", panel=_ALLOCATION, is_advanced=True),
    ] = "bernoulli"
    utility: Annotated[
        names.Utility,
        Option("Utility of b bits, u(b); linear is the paper's.", panel=_ALLOCATION, is_advanced=True),
    ] = "exponential"
    synergy: Annotated[
        names.Synergy,
        Option(
            "Estimator of the synergy of neighbours; proximity is the paper's.", panel=_ALLOCATION, is_advanced=True
        ),
    ] = "proximity"
    synergy_weight: Annotated[
        float,
        Option(
            "Weight of the synergy, λ; 1 is as strong as the utility.",
            panel=_ALLOCATION,
            minimum=0,
            is_advanced=True,
        ),
    ] = 0.0
    tied: Annotated[
        bool,
        Option(
            "Give weight and activation of a unit the same bits, or choose them apart.",
            flags=("--tied/--free",),
            panel=_ALLOCATION,
            is_advanced=True,
        ),
    ] = False
    candidates: Annotated[
        tuple[int, ...],
        Option(
            "Bit-widths to choose from, e.g. 2-8 or 2,4,8.",
            panel=_ALLOCATION,
            is_list=True,
            parse=parse_candidates,
            write=write_bits,
            is_advanced=True,
        ),
    ] = names.CANDIDATE_BITS
    keep: Annotated[
        tuple[str, ...],
        Option(
            "Fix bits by pattern: 'neck.*=8', '*.av=W8A8', '*=float'.",
            panel=_ALLOCATION,
            parse=_check_rule,
            is_advanced=True,
        ),
    ] = ()
    prompts_per_image: Annotated[
        int | None,
        Option(
            "Prompts per image that the BitOps count.",
            panel=_ALLOCATION,
            minimum=1,
            is_advanced=True,
            default_help="those of the analysis, or 1",
        ),
    ] = None
    time_limit: Annotated[
        float, Option("Maximum number of seconds for solving.", panel=_ALLOCATION, minimum=1, is_advanced=True)
    ] = 50.0

    @property
    def objective(self) -> "Objective":
        """The part that the program maximises."""
        from mixqsam.allocation.program import Objective  # noqa: PLC0415  (loads numpy)

        return Objective(self.output_distribution, self.utility, self.synergy, self.synergy_weight)


@dataclass(frozen=True)
class QuantizationOptions(OptionClass):
    """How a bit plan becomes a quantized model.

    Attributes:
        recipe: by name, or of the user's own.
        reconstruction: how long, for the recipes that reconstruct.
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
    ] = "omse"
    reconstruction: ReconstructionOptions = field(default_factory=ReconstructionOptions)


@dataclass(frozen=True)
class Options(OptionClass):
    """All that can be chosen of a job; the defaults are the tool's.

    Attributes:
        analysis: how a model is analysed, and on how many images it is calibrated.
        allocation: how bits are chosen.
        quantization: by which recipe, and how long.
    """

    analysis: AnalysisOptions = field(default_factory=AnalysisOptions)
    allocation: AllocationOptions = field(default_factory=AllocationOptions)
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)


@dataclass(frozen=True)
class Evaluation(OptionClass):
    """On what finished models are compared with the float one.

    Attributes:
        data: images and prompts; None for those that the calibration leaves over, or if there are none, its own.
        limit: maximum number of images; 0 for no comparison. None for all, but `quantize` takes 8 of those that the
            calibration leaves over.
    """

    data: Annotated[Data | Source | None, Nested(inherit=("grid",))] = None
    limit: Annotated[
        int | None,
        Option(
            "Maximum number of images to compare models on; 0 for none.",
            panel=_IMAGES,
            minimum=0,
            is_advanced=True,
            default_help="all; quantize: 8 of those that are left over",
        ),
    ] = None


@dataclass(frozen=True)
class CompareRequest(OptionClass):
    """What is compared.

    Attributes:
        recipes: names, or recipes of the user's own.
        budgets: what models may cost.
        modes: `uniform`, `mixed` or both.
        options: how; the recipe among them is not looked at.
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
        Option("As for quantize; may be repeated.", flags=("--budget", "-b"), parse=_parse_budget, write=str),
    ] = ("W6A6", "W4A4")
    modes: Annotated[Sequence[names.Mode], Option("Kinds of bits, separated by commas.", is_list=True)] = (
        "uniform",
        "mixed",
    )
    options: Annotated[Options, Nested(without=("observer", "recipe"))] = field(default_factory=Options)


# How options stand among those of a job: the recipe names the observer, and images to compare on are not calibration's.
JobOptions = Annotated[Options, Nested(without=("observer",))]
EvaluationImages = Annotated[Evaluation, Nested(prefix="eval_", is_advanced=True)]
