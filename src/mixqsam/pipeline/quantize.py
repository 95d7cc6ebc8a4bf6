"""The main job: a float model, images and a budget in; a quantized directory with its report out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.uniform import nearest_uniform
from mixqsam.calibrate import identify_passes
from mixqsam.data.images import shorten_paths
from mixqsam.directories import claim_directory
from mixqsam.evaluation.evaluate import EvaluationResult
from mixqsam.files import digest
from mixqsam.measurements import Analysis
from mixqsam.pipeline.check import Check, compare_models
from mixqsam.pipeline.job_images import JobImages, choose_job_images
from mixqsam.pipeline.job_stages import begin_quantization
from mixqsam.pipeline.measurements import check_budget, measure_nothing, select_measurements
from mixqsam.pipeline.options import Evaluation, Options
from mixqsam.pipeline.presets import apply_preset
from mixqsam.pipeline.provenance import record_options
from mixqsam.pipeline.quantized_directory import QuantizedModel, write_quantized
from mixqsam.pipeline.recipe_analysis import analyze_for_recipe
from mixqsam.pipeline.result_latency import measure_result
from mixqsam.pipeline.search import Judge, search_bits
from mixqsam.pipeline.search_result import add_final
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import (
    MARKER,
    load_float,
    quantize_model,
    run_allocation,
    with_prompts,
)
from mixqsam.pipeline.stored import adopt_allocation, check_units, read_allocation
from mixqsam.pipeline.timed_models import check_installed
from mixqsam.pipeline.uniform_model import makes_uniform
from mixqsam.pipeline.unit_times import find_times
from mixqsam.progress import following
from mixqsam.quantization.quantize import Quantized, check_recipe
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.recipes import find_recipe
from mixqsam.reporting.record import CalibrationImages, Run, Search
from mixqsam.sam.load import Sam
from mixqsam.times import UnitTimes


@dataclass(frozen=True)
class Result:
    """A finished quantization.

    Attributes:
        directory: the written directory.
        analysis, allocation: analysis and allocation of the model.
        uniform: the largest uniform model within the budget, if any; a uniform budget's is the allocation itself.
        run: record of the run: figures, times, versions.
        check: name → evaluation result; empty without an evaluation.
    """

    directory: Path
    analysis: Analysis
    allocation: Allocation
    uniform: Allocation | None
    run: Run
    check: Mapping[str, EvaluationResult]


@dataclass(frozen=True)
class _Request:
    """What a user asks for; `stored` holds the bits where they are not chosen."""

    model: str | Path
    data: Source
    budget: Budget
    options: Options
    evaluation: Evaluation
    stored: Allocation | None


def run_quantization(
    model: str | Path,
    data: Source,
    *,
    budget: Budget,
    output: Path,
    options: Options,
    session: Session,
    overwrite: bool = False,
    evaluation: Evaluation | None = None,
    allocation: Path | None = None,
) -> Result:
    """Analyse, allocate, quantize, compare with the float model, and write the directory.

    Args:
        model: float checkpoint.
        data: calibration images.
        budget: limits of size and BitOps, or a quality that the smallest model keeps.
        output: directory to write; after an error nothing is written.
        options: options of all stages. Only measurements that the allocation uses are made, with the recipe's
            observer.
        session: cache and progress.
        overwrite: replace a directory that mixqsam wrote.
        evaluation: images of the comparison with the float model.
        allocation: a stored allocation, or a quantized directory, whose bits the model gets. Budget and options of
            the allocation are then without effect, and nothing is measured.
    """
    evaluation = evaluation or Evaluation()
    stored = None if allocation is None else read_allocation(allocation)
    if stored is None:
        options = apply_preset(options, budget)
        if budget.latency is not None:
            check_installed(budget.latency.backend)
    record = record_options(model, data, budget=budget, options=options, evaluation=evaluation, device=session.device)
    if allocation is not None:
        record["allocation"] = str(allocation.expanduser().absolute())
    request = _Request(model, data, budget, options, evaluation, stored)
    with claim_directory(output, overwrite=overwrite, marker=MARKER), following(session.progress):
        finished = _quantize(request, session)
        run = write_quantized(finished, output, session=session, overwrite=overwrite, options=record)
    return Result(
        output,
        finished.analysis,
        finished.allocation,
        finished.uniform,
        run,
        finished.check.results,
    )


def _quantize(request: _Request, session: Session) -> QuantizedModel:
    options = request.options
    recipe = find_recipe(options.quantization.recipe)
    measurements = (
        select_measurements(options, [request.budget]) if request.stored is None else measure_nothing(options)
    )
    with session.timed("loading"):
        sam = load_float(request.model, session)
        images = choose_job_images(
            request.data,
            request.evaluation,
            options=measurements,
            target=request.budget.quality if request.stored is None else None,
            session=session,
        )
    samples = images.calibration
    check_recipe(recipe, images=len(samples))
    if request.stored is None:
        # The latency follows when the times of the units are known.
        check_budget(sam, replace(request.budget, latency=None), options)
    else:
        check_units(request.stored, sam.costs())
    begin_quantization(
        sam,
        images,
        budget=request.budget,
        stored=request.stored,
        options=options,
        measurements=measurements,
        session=session,
    )
    times = _find_times(request, sam, recipe, session)
    analysis = analyze_for_recipe(
        sam, samples, recipe=recipe, budget=request.budget, options=measurements, session=session
    )
    analysis = with_prompts(analysis, options.allocation).with_times(times)
    allocation, search = _choose_allocation(request, sam, analysis, images, session)
    uniform = nearest_uniform(analysis, allocation, keep=options.allocation.keep)
    quantized = quantize_model(sam, allocation.plan, samples, options=options.quantization, session=session)
    check = Check({})
    if images.check is not None:
        check = _compare(request, sam, images, allocation, uniform, quantized, session=session)
        search = search and add_final(search, check, images.check)
    latency = measure_result(sam, quantized.sam, allocation, costs=analysis.costs, session=session)
    calibration = CalibrationImages(seed=measurements.seed, images=shorten_paths([sample.path for sample in samples]))
    return QuantizedModel(quantized, analysis, allocation, uniform, check, recipe, calibration, search, latency)


def _find_times(request: _Request, sam: Sam, recipe: Recipe, session: Session) -> UnitTimes | None:
    """Find the times of the units that the budget needs, and check that it can be met; None where it needs none.

    Raises:
        BudgetError: no choice of bits meets the budget.
    """
    limit = request.budget.latency if request.stored is None else None
    if limit is None:
        return None
    if recipe.steps:
        session.progress.note(
            f"The times of units are those of affine grids; activations of the recipe {recipe.name} may have others, "
            "whose products runtimes compute with floats. Compare predicted and measured latency."
        )
    times = find_times(sam, limit.backend, session)
    check_budget(sam, request.budget, request.options, times=times)
    return times


def _choose_allocation(
    request: _Request, sam: Sam, analysis: Analysis, images: JobImages, session: Session
) -> tuple[Allocation, Search | None]:
    """Choose the bits; where a quality is asked for, with the record of the search."""
    options, budget = request.options, request.budget
    if request.stored is not None:
        return adopt_allocation(request.stored, analysis), None
    if images.judging is None or budget.quality is None:
        return run_allocation(analysis, budget, options=options.allocation, session=session), None
    judge = Judge(sam, images.calibration, images.judging, target=budget.quality, options=options, session=session)
    found = search_bits(analysis, budget, judge, options=options, session=session)
    return found.allocation, found.record


def _compare(
    request: _Request,
    sam: Sam,
    images: JobImages,
    allocation: Allocation,
    uniform: Allocation | None,
    quantized: Quantized,
    *,
    session: Session,
) -> Check:
    """Compare the float model, the uniform one if it is wanted or quick to make, and the quantized one."""
    assert images.check is not None  # noqa: S101  (callers have images)
    options, samples = request.options, images.calibration
    recipe = find_recipe(options.quantization.recipe)
    plans = {"uniform": uniform.plan} if uniform else {}
    plans[allocation.kind] = allocation.plan
    models = {"float": sam}
    is_made = makes_uniform(sam.costs().units, recipe=recipe, wanted=options.uniform)
    if uniform is not None and uniform is not allocation and is_made:
        models["uniform"] = quantize_model(
            sam, uniform.plan, samples, options=options.quantization, session=session
        ).sam
    models[allocation.kind] = quantized.sam
    key = digest(recipe.key, asdict(options.quantization), *identify_passes(sam, samples))
    keys = {name: digest(key, plans[name].to_json() if name in plans else "float") for name in models}
    return compare_models(
        models, images.check, samples, keys=keys, session=session, draws=not options.sharing.no_images
    )
