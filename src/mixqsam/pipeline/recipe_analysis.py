"""The analysis of a model as its recipe will round it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress

from mixqsam.allocation.budget import Budget
from mixqsam.calibrate import Watch
from mixqsam.data.samples import Sample
from mixqsam.measurements import Analysis
from mixqsam.pipeline.options import AnalysisOptions
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import analyze_model, find_ranges
from mixqsam.plan import HALF_BITS, BitPlan, UnitBits
from mixqsam.quantization.compensation.share import ShareMeter, find_shares
from mixqsam.quantization.quantize import rewrite
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.steps.folding import FOLDING_IMAGES
from mixqsam.quantization.steps.outliers import OUTLIER_IMAGES, OutlierMeter, OutliersFound, fold_outliers
from mixqsam.sam.load import Sam


def analyze_for_recipe(
    sam: Sam,
    samples: Sequence[Sample],
    *,
    recipe: Recipe,
    budget: Budget,
    options: AnalysisOptions,
    session: Session,
) -> Analysis:
    """Analyze a model as its recipe will round it.

    The recipe names the observer, rewrites the model, and says how many bytes its quantizers take. Where it
    compensates, a weight's sensitivity is what compensation leaves of it.
    """
    if recipe.rewrite is not None and (options.sensitivity_bits or options.fisher):
        if recipe.rewrite is fold_outliers and session.engine.world == 1:
            _calibrate_unless_rewritten(sam, samples, recipe=recipe, session=session)
        with session.timed("calibration"):
            plan = _expected_plan(sam, budget)
            sam = rewrite(sam, plan, samples, recipe=recipe, cache=session.cache, progress=session.progress)
    watch = _watch_shares(sam, samples, recipe=recipe, session=session)
    analysis = analyze_model(sam, samples, options=options, session=session, observer=recipe.observer, watch=watch)
    return adapt_analysis(analysis, sam, samples, recipe=recipe, session=session)


def _calibrate_unless_rewritten(sam: Sam, samples: Sequence[Sample], *, recipe: Recipe, session: Session) -> None:
    """Find ranges, shares and outliers in one pass, which ends at the first images if they show outliers."""
    outliers = OutlierMeter(sam, samples, cache=session.cache)
    if outliers.norms_with_outliers():
        return
    shares = _watch_shares(sam, samples, recipe=recipe, session=session)

    @contextmanager
    def watch(sample: Sample) -> Iterator[None]:
        with outliers.watching(sample), shares(sample) if shares else nullcontext():
            yield

    with suppress(OutliersFound):
        find_ranges(sam, samples, observer=recipe.observer, session=session, watch=watch)


def _watch_shares(sam: Sam, samples: Sequence[Sample], *, recipe: Recipe, session: Session) -> Watch | None:
    # In a group of processes, each one sees a share of the images only.
    if recipe.compensation is None or session.engine.world > 1:
        return None
    return ShareMeter(sam, samples, method=recipe.compensation, cache=session.cache).watching


def list_passes(recipe: Recipe, *, images: int, side: int, processes: int) -> list[int]:
    """Images of each pass of a calibration, in their order: ranges, the recipe's rewrite, the recipe's shares.

    Args:
        recipe: the recipe.
        images: of the calibration.
        side: of the model's frame in pixels.
        processes: that share the calibration. One alone finds outliers and shares on the way, unless the ranges are
            cached or outliers make it begin again; the estimate leaves that out.
    """
    alone = processes == 1
    passes = [images]
    if recipe.rewrite is fold_outliers:
        # The ranges are looked up once more behind the rewrite, whose outliers the first pass has shown.
        passes = [images, 0, 0] if alone else [min(OUTLIER_IMAGES, images), images]
    elif recipe.rewrite is not None:
        passes = [min(FOLDING_IMAGES, images), images]
    if recipe.compensation is not None:
        passes.append(0 if alone else count_fitted(recipe, images=images, side=side))
    return passes


def count_fitted(recipe: Recipe, *, images: int, side: int) -> int:
    """Count the calibration images that a recipe's compensation is fitted to; 0 without one."""
    return 0 if recipe.compensation is None else len(recipe.compensation.select(range(images), side=side))


def adapt_analysis(
    analysis: Analysis, sam: Sam, samples: Sequence[Sample], *, recipe: Recipe, session: Session
) -> Analysis:
    """Adapt an analysis to a recipe: what its compensation leaves, and the bytes of its quantizers."""
    shares: Mapping[str, float] = {}
    if recipe.compensation is not None and (analysis.fisher or analysis.sensitivity):
        with session.timed("calibration"):
            shares = find_shares(
                sam, samples, method=recipe.compensation, cache=session.cache, progress=session.progress
            )
    adapted = analysis.with_weight_shares(shares)
    return adapted.with_extra_bytes(recipe.extra_bytes(adapted.units))


def _expected_plan(sam: Sam, budget: Budget) -> BitPlan:
    """What stands for the bits before they are chosen: 4, and 16 for activations whose bits no limit counts."""
    return BitPlan.uniform(sam.costs().units, UnitBits(4, 4 if budget.limits_activations else HALF_BITS))
