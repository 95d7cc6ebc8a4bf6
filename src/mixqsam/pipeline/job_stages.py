"""The stages of a quantization with the time that each takes, announced before they begin."""

from dataclasses import replace

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation, find_size_span
from mixqsam.pipeline.estimate import (
    Speed,
    analysis_stages,
    announce,
    check_stage,
    find_hints,
    measure_speed,
    quantization_stage,
    sample_prompts,
    search_stage,
    timing_stage,
)
from mixqsam.pipeline.job_images import JobImages
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, Options
from mixqsam.pipeline.recipe_analysis import count_fitted, list_passes
from mixqsam.pipeline.search import count_tries
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.uniform_model import makes_uniform, note_missing_uniform
from mixqsam.pipeline.unit_times import count_models
from mixqsam.progress import Stage, begin_job
from mixqsam.quantization.recipes import find_recipe
from mixqsam.sam.load import Sam


def begin_quantization(
    sam: Sam,
    images: JobImages,
    *,
    budget: Budget,
    stored: Allocation | None,
    options: Options,
    measurements: AnalysisOptions,
    session: Session,
) -> None:
    """Say what a job takes, and start to follow it.

    Args:
        sam: the float model.
        images: of all stages.
        budget: limits of the bits.
        stored: bits that are not chosen; the budget is then without effect.
        options: of all stages.
        measurements: what the analysis measures.
        session: receives the notes and the stages.
    """
    recipe = find_recipe(options.quantization.recipe)
    is_uniform = budget.uniform is not None if stored is None else not stored.objective
    if is_uniform and options.uniform:
        session.progress.note("All units have the same bits already, so --uniform has no effect.")
    models = 1
    if images.check is not None and not is_uniform:
        units, wanted = sam.costs().units, options.uniform
        models += makes_uniform(units, recipe=recipe, wanted=wanted)
        note_missing_uniform(units, recipe=recipe, wanted=wanted, progress=session.progress)
    stages = _list_stages(
        sam,
        images,
        budget=budget if stored is None else None,
        options=options,
        measurements=measurements,
        models=models,
        processes=session.engine.world,
    )
    announce(stages, find_hints(stages, recipe=recipe, options=measurements), session)
    begin_job(session.progress, stages)


def _list_stages(
    sam: Sam,
    images: JobImages,
    *,
    budget: Budget | None,
    options: Options,
    measurements: AnalysisOptions,
    models: int,
    processes: int,
) -> list[Stage]:
    """The stages of a job that makes a number of models; no budget where bits are not chosen."""
    recipe, count = find_recipe(options.quantization.recipe), len(images.calibration)
    speed = measure_speed(sam, prompts=sample_prompts(images.calibration))
    fitted = count_fitted(recipe, sam, images=count)
    passes = list_passes(recipe, images=count, fitted=fitted, processes=processes)
    stages = analysis_stages(speed, sam, images=count, options=measurements, passes=passes)
    is_calibrated = len(stages) > 1
    if budget is not None and budget.latency is not None:
        stages.insert(0, timing_stage(speed, models=count_models(sam)))
    if budget is not None and images.judging is not None:
        stages.append(_find_search(speed, sam, images, budget=budget, options=options))
    stages.append(
        quantization_stage(
            speed,
            images=count,
            fitted=fitted,
            recipe=recipe,
            options=options.quantization,
            models=models,
            is_calibrated=is_calibrated or images.judging is not None,
        )
    )
    if images.check is not None:
        stages.append(check_stage(speed, images=len(images.check.samples), models=models))
    return stages


def _find_search(speed: Speed, sam: Sam, images: JobImages, *, budget: Budget, options: Options) -> Stage:
    """The search of the smallest model that keeps a quality."""
    assert images.judging is not None  # noqa: S101  (callers have images)
    recipe = find_recipe(options.quantization.recipe)
    models = count_tries(_find_span(sam, budget, options.allocation))
    return search_stage(
        speed,
        images=len(images.judging.samples),
        fitted=count_fitted(recipe, sam, images=len(images.calibration)),
        recipe=recipe,
        options=options.quantization,
        models=models,
    )


def _find_span(sam: Sam, budget: Budget, options: AllocationOptions) -> tuple[float, float]:
    """The smallest and the largest size that a budget leaves."""
    return find_size_span(
        sam.costs(),
        replace(budget, latency=None),
        candidates=options.choices,
        tied=options.tied,
        keep=options.keep,
    )
