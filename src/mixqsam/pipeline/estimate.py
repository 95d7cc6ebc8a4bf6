"""Estimate what the stages of a job take on this machine, and say how to make it shorter.

The factors were measured on sam-tiny and SAM-B, on x86 processors. Progress bars correct them as stages finish.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from mixqsam.data.samples import Sample
from mixqsam.pipeline.options import AnalysisOptions, QuantizationOptions
from mixqsam.pipeline.session import Session
from mixqsam.plan import CANDIDATE_BITS
from mixqsam.progress import Stage, format_seconds
from mixqsam.quantization.recipe import Recipe
from mixqsam.sam.load import Sam
from mixqsam.sam.rough import multiplies_roughly

# A pass of the model makes this share of the multiply-adds of a large matrix product in the same time, and takes
# these seconds for each unit beside.
_EFFICIENCY, _CALL = 0.7, 4e-4
_SIDE, _REPEATS = 768, 4
# Seconds for each million weights and bit-width of the search of a grid, and for the ranges of an operand, where
# a matrix product makes 20e9 multiply-adds a second.
_RATE, _GRID, _RANGES = 20e9, 0.35, 0.05
# Passes of the model: calibration of an image, and a draw of the Fisher sensitivity, both in rough passes; a unit
# changed, which runs from its block on; a pass with quantized units, simulated and in integers; an image that a
# compensation is fitted to; an iteration of a reconstruction on all blocks.
_CALIBRATION, _DRAW, _VARIANT, _QUANTIZED, _INTEGER, _FITTED, _ITERATION = 1.1, 4.0, 0.5, 1.5, 0.8, 3.0, 4.0
# A rough pass takes this share of an exact one, where it multiplies in bfloat16.
_ROUGH = 0.75
# A compensation tries ways to round each weight; this is their time in searches of the weight's grid.
_WAYS = 15.0
# Seconds of a model that is made and timed, at least and in passes.
_TIMED, _TIMED_PASSES = 8.0, 4.0
# Shorter jobs need no announcement.
_SHORT = 30.0


@dataclass(frozen=True)
class Speed:
    """Times of the parts of a job.

    Attributes:
        forward: seconds of a pass over an image with its prompts.
        rough: the same where last digits do not matter, as in calibration and the Fisher sensitivity.
        grids: seconds of the search of all weights' grids at one bit-width.
        ranges: seconds of the choice of all activations' ranges.
    """

    forward: float
    rough: float
    grids: float
    ranges: float


@dataclass(frozen=True)
class Pass:
    """A part of a calibration.

    Attributes:
        images: that pass through the model.
        finds_ranges: the choice of all ranges belongs to it.
    """

    images: int
    finds_ranges: bool = False


def measure_speed(sam: Sam, *, prompts: int) -> Speed:
    """Time a matrix product, and derive the times of a model from its multiply-adds."""
    values = torch.ones(_SIDE, _SIDE, device=sam.device)
    rate = 0.0
    for _ in range(_REPEATS):
        started = perf_counter()
        # The sum waits for a GPU.
        float((values @ values).sum())
        rate = max(rate, _SIDE**3 / (perf_counter() - started))
    costs = sam.costs(prompts_per_image=max(1, prompts))
    parameters = sum(unit.parameters for unit in costs.units)
    operands = sum(len(unit.activations) for unit in costs.units)
    slowness = _RATE / rate
    forward = costs.work / (rate * _EFFICIENCY) + _CALL * len(costs.units)
    rough = forward * (_ROUGH if multiplies_roughly(sam, prompts=prompts) else 1.0)
    return Speed(forward, rough, _GRID * slowness * parameters / 1e6, _RANGES * slowness * operands)


def analysis_stages(
    speed: Speed, sam: Sam, *, images: int, options: AnalysisOptions, passes: Sequence[Pass] = ()
) -> list[Stage]:
    """Calibration and analysis.

    Args:
        speed: of the machine and the model.
        sam: the float model.
        images: that this process calibrates on and analyses.
        options: what is measured.
        passes: the parts of the calibration, in their order; by default one over all images.
    """
    units = len(sam.costs().units)
    seconds, tracks = 0.0, 0
    if options.importance:
        variants = units * (2 if options.pairs else 1)
        seconds, tracks = seconds + images * variants * _VARIANT * speed.forward, tracks + images
    if options.sensitivity_bits:
        bits = len(options.sensitivity_bits)
        seconds += images * 2 * units * bits * _VARIANT * speed.forward + bits * speed.grids
        tracks += images
    if options.fisher:
        draws = images * -(-options.fisher_draws // max(1, images)) * len(options.fisher)
        seconds += draws * _DRAW * speed.rough + len(CANDIDATE_BITS) * speed.grids
        tracks += len(options.fisher)
    split = tuple(
        part.images * _CALIBRATION * speed.rough + part.finds_ranges * speed.ranges
        for part in passes or [Pass(images, finds_ranges=True)]
    )
    calibration = Stage("calibration", sum(split), tracks=2, parts=len(split), split=split)
    is_calibrated = bool(options.sensitivity_bits or options.fisher)
    return [*([calibration] if is_calibrated else []), Stage("analysis", seconds, tracks)]


def quantization_stage(
    speed: Speed,
    *,
    images: int,
    fitted: int,
    recipe: Recipe,
    options: QuantizationOptions,
    models: int,
    is_calibrated: bool,
) -> Stage:
    """The quantization of `models` models.

    Args:
        speed: of the machine and the model.
        images: of the calibration.
        fitted: images that a compensation is fitted to (`count_fitted`).
        recipe: how models are quantized.
        options: of the reconstruction.
        models: their number.
        is_calibrated: an analysis found ranges and grids.
    """
    first = 0.0 if is_calibrated else images * _CALIBRATION * speed.rough + speed.ranges
    each = 0.0 if is_calibrated and recipe.weight_observer == recipe.observer else speed.grids
    tracks = 0
    if recipe.method is not None:
        iterations = options.reconstruction.iterations * sum(phase.share for phase in recipe.method.phases)
        each += iterations * options.reconstruction.batch * _ITERATION * speed.forward
    elif recipe.compensation is not None:
        each += fitted * _FITTED * speed.forward + _WAYS * speed.grids
    return Stage("quantization", first + models * each, tracks, parts=models)


def search_stage(
    speed: Speed, *, images: int, fitted: int, recipe: Recipe, options: QuantizationOptions, models: int
) -> Stage:
    """The quantization of the tried models, each compared with the float model on `images` images."""
    quantization = quantization_stage(
        speed, images=0, fitted=fitted, recipe=recipe, options=options, models=models, is_calibrated=True
    )
    judgement = models * images * (1 + _QUANTIZED) * speed.forward
    return Stage("search", quantization.seconds + judgement)


def timing_stage(speed: Speed, *, models: int, parts: int = 1) -> Stage:
    """The timing of `models` models in each of `parts` backends: each is made, loaded, and run in turns."""
    return Stage("timing", parts * models * max(_TIMED, _TIMED_PASSES * speed.forward), parts=parts)


def check_stage(speed: Speed, *, images: int, models: int) -> Stage:
    """The comparison of a float model and `models` quantized ones; what pictures need is kept from it."""
    return Stage("check", images * (1 + models * _INTEGER) * speed.forward, tracks=2)


def announce(stages: Sequence[Stage], hints: Sequence[str], session: Session) -> None:
    """Say what a job takes and how to make it shorter, unless it is short."""
    total = sum(stage.seconds for stage in stages)
    if total < _SHORT:
        return
    parts = ", ".join(
        f"{stage.name} {format_seconds(stage.seconds)}" for stage in stages if stage.seconds >= 0.02 * total
    )
    shorter = f" Shorter: {'; '.join(hints)}." if hints else ""
    session.progress.note(
        f"This takes about {format_seconds(total)} ({parts}); stages in the cache take no time.{shorter}"
    )


def find_hints(stages: Sequence[Stage], *, recipe: Recipe, options: AnalysisOptions) -> list[str]:
    """Options that shorten the stages that take long."""
    total = sum(stage.seconds for stage in stages)
    long = {stage.name for stage in stages if stage.seconds > 0.15 * total}
    hints = []
    if "analysis" in long and options.fisher and max(options.fisher_draws, options.count) > 8:
        hints.append("--count 8 --fisher-draws 8 (less exact choice of bits)")
    elif "analysis" in long and not options.fisher:
        hints.append("--utility fisher")
    elif "calibration" in long and options.count > 8:
        hints.append("--count 8")
    if long & {"quantization", "search"} and recipe.method is not None:
        hints.append("--iterations 100, or --recipe omse, which only rounds")
    elif long & {"quantization", "search"} and recipe.compensation is not None:
        hints.append("--recipe omse, which only rounds")
    if "check" in long:
        hints.append("--eval-limit 2, or 0 for no comparison")
    return hints


def sample_prompts(samples: Sequence[Sample]) -> int:
    """Mean number of prompts of an image, rounded up."""
    return -(-sum(len(sample.prompts) for sample in samples) // max(1, len(samples)))
