"""Functions that make models."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation
from mixqsam.api.shared import data_of, evaluation_of, session_of, write_scores
from mixqsam.options.fields import Nested
from mixqsam.options.names import DEMO_FOLDER
from mixqsam.pipeline.compare import run_comparison
from mixqsam.pipeline.demo import DemoData, DemoEvaluation, DemoResult, run_demo
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, CompareRequest, Data, Evaluation, Options
from mixqsam.pipeline.quantize import Result, run_quantization
from mixqsam.pipeline.stages import read_analysis, run_allocation, run_analysis, with_prompts
from mixqsam.plan import Analysis
from mixqsam.progress import Progress
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.recipes import RECIPES
from mixqsam.reporting.comparison import Comparison


def demo(
    output: Path | str = DEMO_FOLDER,
    *,
    model: str | None = None,
    budget: Budget | str = "W4A4",
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> DemoResult:
    """Quantize MobileSAM on photographs that come with Python packages, and draw its masks.

    Args:
        output: folder to write into.
        model: float checkpoint; None for MobileSAM, or `sam-tiny` where MobileSAM is not at hand.
        budget: what the model may cost.
        cache: folder of finished stages; None for the user's.
        progress: hears of steps.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    return run_demo(Path(output), budget=Budget.parse(budget), session=session_of(cache, progress), model=model)


def quantize(
    model: str | Path,
    images: Data | Path | str,
    *,
    budget: Budget | str = "W4A4",
    output: Path | str,
    options: Annotated[Options | None, Nested(without=("observer",))] = None,
    evaluation: Annotated[Evaluation | Data | Path | str | None, Nested(prefix="eval_")] = None,
    overwrite: bool = False,
    cache: Path | str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """The main job: a float SAM, images and a budget in; a quantized directory out.

    Args:
        model: `sam-tiny`, a directory, a `.pth`, or a hub id.
        images: a folder, or `Data` with annotations or boxes.
        budget: what the model may cost (see `mixqsam.allocation.budget.HELP`).
        output: the directory to write, whole or not at all.
        options: how.
        evaluation: images that the result is compared with the float model on.
        overwrite: replace a directory that mixqsam wrote before.
        cache: folder of finished stages; None for the user's.
        device: where to compute.
        progress: hears of steps.

    Raises:
        MixqsamError: of any kind; the message says what to do. Nothing half-written is left.
    """
    return run_quantization(
        model,
        data_of(images),
        budget=Budget.parse(budget),
        output=Path(output),
        options=options or Options(),
        session=session_of(cache, progress, device=device),
        overwrite=overwrite,
        evaluation=evaluation_of(evaluation),
    )


def recipes() -> tuple[Recipe, ...]:
    """The recipes: the ways to quantize."""
    return tuple(RECIPES.values())


def compare(
    model: str | Path = "sam-tiny",
    images: Data | Path | str | None = None,
    *,
    output: Path | str,
    request: CompareRequest | None = None,
    evaluation: Annotated[Evaluation | Data | Path | str | None, Nested(prefix="eval_")] = None,
    overwrite: bool = False,
    cache: Path | str | None = None,
    device: str = "cpu",
    processes: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare recipes at budgets, with uniform and with mixed bits; tables and a figure are written.

    Args:
        model: `sam-tiny`, a directory, a `.pth`, or a hub id.
        images: a folder, or `Data`, to calibrate on; None for the demonstration's photographs.
        output: the directory to write.
        request: recipes, budgets, modes and options.
        evaluation: images that models are compared on; None for those that the calibration leaves over.
        overwrite: replace a comparison that mixqsam wrote before.
        cache: folder of finished stages; None for the user's.
        device: where to compute.
        processes: how many processes torchrun has to have launched.
        progress: hears of steps.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    judged = evaluation_of(evaluation)
    if images is None and judged.data is None:
        judged = replace(judged, data=DemoEvaluation())
    return run_comparison(
        model,
        DemoData() if images is None else data_of(images),
        judged,
        request=request or CompareRequest(),
        output=Path(output),
        session=session_of(cache, progress, device=device, processes=processes, is_group=True),
        overwrite=overwrite,
    )


def analyze(
    model: str | Path,
    images: Data | Path | str,
    *,
    output: Path | str | None = None,
    options: AnalysisOptions | None = None,
    cache: Path | str | None = None,
    device: str = "cpu",
    processes: int | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Measure importance, synergy and sensitivity of every unit; the result serves many allocations.

    Args:
        model: `sam-tiny`, a directory, a `.pth`, or a hub id.
        images: a folder, or `Data` with annotations or boxes.
        output: JSON file to write; None for none.
        options: how to measure.
        cache: folder of finished stages; None for the user's.
        device: where to compute.
        processes: how many processes torchrun has to have launched.
        progress: hears of steps.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    session = session_of(cache, progress, device=device, processes=processes, is_group=True)
    analysis = run_analysis(model, data_of(images), options=options or AnalysisOptions(), session=session)
    write_scores(None if session.engine.rank else output, analysis.to_json())
    return analysis


def allocate(
    analysis: Analysis | Path | str,
    *,
    budget: Budget | str = "W4A4",
    output: Path | str | None = None,
    options: AllocationOptions | None = None,
    progress: Progress | None = None,
) -> Allocation:
    """Choose the bits of all units under a budget; needs no model, takes seconds.

    Args:
        analysis: what `analyze` returned or wrote, or a quantized directory.
        budget: what the model may cost (see `mixqsam.allocation.budget.HELP`).
        output: JSON file to write; None for none.
        options: how bits are valued.
        progress: hears of steps.

    Raises:
        BudgetError: the budget cannot be understood or met.
        ArtifactError: the analysis cannot be read.
    """
    chosen = options or AllocationOptions()
    measured = analysis if isinstance(analysis, Analysis) else read_analysis(Path(analysis))
    allocation = run_allocation(
        with_prompts(measured, chosen), Budget.parse(budget), options=chosen, session=session_of(None, progress)
    )
    write_scores(output, allocation.to_json())
    return allocation
