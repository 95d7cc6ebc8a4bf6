"""Functions that make models."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation
from mixqsam.api.shared import as_data, as_evaluation, start_session, write_output
from mixqsam.measurements import Analysis
from mixqsam.options.fields import Nested
from mixqsam.options.frames import with_frame
from mixqsam.options.names import DEMO_FOLDER
from mixqsam.pipeline.analyze import run_analysis
from mixqsam.pipeline.compare import run_comparison
from mixqsam.pipeline.demo import DemoData, DemoEvaluation, DemoResult, run_demo
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, CompareRequest, Data, Evaluation, Options
from mixqsam.pipeline.provenance import record_analysis_options
from mixqsam.pipeline.quantize import Result, run_quantization
from mixqsam.pipeline.stages import read_analysis, run_allocation, with_prompts
from mixqsam.pipeline.unit_times import add_times
from mixqsam.progress import Progress
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.recipes import RECIPES
from mixqsam.reporting.comparison import Comparison


def demo(
    output: Path | str = DEMO_FOLDER,
    *,
    model: str | None = None,
    budget: Budget | str = "W6A6",
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> DemoResult:
    """Quantize MobileSAM on photographs of installed Python packages, and draw its masks.

    Args:
        output: folder to write into.
        model: float checkpoint; None for MobileSAM, or `sam-tiny` without a checkpoint of MobileSAM.
        budget: limits of size and BitOps.
        cache: folder of the cache; None for the user's.
        progress: receives the progress.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    return run_demo(Path(output), budget=Budget.parse(budget), session=start_session(cache, progress), model=model)


def quantize(
    model: str | Path,
    images: Data | Path | str,
    *,
    image_size: int | None = None,
    budget: Budget | str = "W4A4",
    output: Path | str,
    options: Annotated[Options | None, Nested(without=("observer",))] = None,
    evaluation: Annotated[Evaluation | Data | Path | str | None, Nested(prefix="eval_")] = None,
    allocation: Path | str | None = None,
    overwrite: bool = False,
    cache: Path | str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Quantize a float SAM within a budget, and write a quantized directory.

    Args:
        model: `sam-tiny`, a directory, a `.pth`, or a hub id.
        images: a folder, or `Data` with annotations or boxes.
        image_size: side of the frame in pixels, smaller than the checkpoint's; None for that of the checkpoint.
        budget: limits of size, BitOps and latency, or a quality to keep (see `mixqsam.allocation.budget.HELP`).
        output: the directory to write; it is complete or absent.
        options: options of all stages.
        evaluation: images on which the result is compared with the float model.
        allocation: file of `allocate`, or a quantized directory, whose bits the model gets; the budget and the options
            of the allocation are then without effect.
        overwrite: replace an earlier directory of mixqsam.
        cache: folder of the cache; None for the user's.
        device: device for the computation, e.g. `cpu` or `cuda`.
        progress: receives the progress.

    Raises:
        MixqsamError: any of its kinds; the message says what to do. No partial result remains.
    """
    return run_quantization(
        with_frame(model, image_size),
        as_data(images),
        budget=Budget.parse(budget),
        output=Path(output),
        options=options or Options(),
        session=start_session(cache, progress, device=device),
        overwrite=overwrite,
        evaluation=as_evaluation(evaluation),
        allocation=None if allocation is None else Path(allocation),
    )


def recipes() -> tuple[Recipe, ...]:
    """List the recipes of quantization."""
    return tuple(RECIPES.values())


def compare(
    model: str | Path = "sam-tiny",
    images: Data | Path | str | None = None,
    *,
    image_size: int | None = None,
    output: Path | str,
    request: CompareRequest | None = None,
    evaluation: Annotated[Evaluation | Data | Path | str | None, Nested(prefix="eval_")] = None,
    keep_embeddings: bool = False,
    overwrite: bool = False,
    cache: Path | str | None = None,
    device: str = "cpu",
    processes: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare recipes at budgets, with uniform and with mixed bits; tables and a figure are written.

    Args:
        model: `sam-tiny`, a directory, a `.pth`, or a hub id.
        images: calibration images, a folder or `Data`; None for the demonstration's photographs.
        image_size: side of the frame in pixels, smaller than the checkpoint's; None for that of the checkpoint.
        output: the directory to write.
        request: recipes, budgets, modes and options.
        evaluation: images on which models are compared; None for images that do not calibrate. Its `boxes` may map the
            names of detectors to files; each row then has figures for each detector.
        keep_embeddings: cache the float model's image embeddings, so that it encodes each image once for all models.
        overwrite: replace an earlier comparison of mixqsam.
        cache: folder of the cache; None for the user's.
        device: device for the computation, e.g. `cpu` or `cuda`.
        processes: expected number of processes from torchrun; None for any.
        progress: receives the progress.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    evaluation_options = as_evaluation(evaluation)
    if images is None and evaluation_options.data is None:
        evaluation_options = replace(evaluation_options, data=DemoEvaluation())
    return run_comparison(
        with_frame(model, image_size),
        DemoData() if images is None else as_data(images),
        evaluation_options,
        request=request or CompareRequest(),
        output=Path(output),
        session=start_session(cache, progress, device=device, processes=processes, is_group=True),
        overwrite=overwrite,
        keep_embeddings=keep_embeddings,
    )


def analyze(
    model: str | Path,
    images: Data | Path | str,
    *,
    image_size: int | None = None,
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
        image_size: side of the frame in pixels, smaller than the checkpoint's; None for that of the checkpoint.
        output: JSON file to write; None writes nothing.
        options: options of the measurement.
        cache: folder of the cache; None for the user's.
        device: device for the computation, e.g. `cpu` or `cuda`.
        processes: expected number of processes from torchrun; None for any.
        progress: receives the progress.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    session = start_session(cache, progress, device=device, processes=processes, is_group=True)
    data, options, model = as_data(images), options or AnalysisOptions(), with_frame(model, image_size)
    analysis = run_analysis(model, data, options=options, session=session)
    record = record_analysis_options(model, data, options, device)
    write_output(None if session.engine.rank else output, {**analysis.to_json(), "options": record})
    return analysis


def allocate(
    analysis: Analysis | Path | str,
    *,
    budget: Budget | str = "W4A4",
    output: Path | str | None = None,
    options: AllocationOptions | None = None,
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> Allocation:
    """Choose the bits of all units under a budget; this needs only seconds and does not load the model.

    Args:
        analysis: result or file of `analyze`, or a quantized directory.
        budget: limits of size, BitOps and latency (see `mixqsam.allocation.budget.HELP`).
        output: JSON file to write; None writes nothing.
        options: objective and constraints.
        cache: folder of the cache, which keeps the times of units; None for the user's.
        progress: receives the progress.

    Raises:
        BudgetError: the budget cannot be understood or met.
        ArtifactError: the analysis cannot be read.
    """
    allocation_options = options or AllocationOptions()
    measured_analysis = analysis if isinstance(analysis, Analysis) else read_analysis(Path(analysis))
    chosen, session = Budget.parse(budget), start_session(cache, progress)
    timed = add_times(with_prompts(measured_analysis, allocation_options), chosen, session.cache)
    allocation = run_allocation(timed, chosen, options=allocation_options, session=session)
    write_output(output, allocation.to_json())
    return allocation
