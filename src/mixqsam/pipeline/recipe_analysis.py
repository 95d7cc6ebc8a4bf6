"""The analysis of a model as its recipe will round it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress

from mixqsam.allocation.budget import Budget
from mixqsam.calibrate import Watch
from mixqsam.data.samples import Sample
from mixqsam.measurements import Analysis
from mixqsam.pipeline.estimate import Pass
from mixqsam.pipeline.options import AnalysisOptions
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import analyze_model, find_ranges
from mixqsam.plan import HALF_BITS, BitPlan, UnitBits
from mixqsam.quantization.compensation.share import ShareMeter, find_shares
from mixqsam.quantization.quantize import rewrite
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.steps.folding import FOLDING_IMAGES
from mixqsam.quantization.steps.outliers import OUTLIER_IMAGES, OutlierMeter, fold_outliers
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
        begins_again = _shows_outliers(sam, samples, recipe=recipe, session=session)
        # The expected times leave out a calibration that begins again.
        with session.timed("folding" if begins_again else "calibration"):
            plan = _expected_plan(sam, budget)
            sam = rewrite(sam, plan, samples, recipe=recipe, cache=session.cache, progress=session.progress)
    watch = _watch_shares(sam, samples, recipe=recipe, session=session)
    analysis = analyze_model(sam, samples, options=options, session=session, observer=recipe.observer, watch=watch)
    return adapt_analysis(analysis, sam, samples, recipe=recipe, session=session)


class _OutliersFound(Exception):  # noqa: N818  (it ends a pass whose results would not be used; nothing is wrong)
    """The model is going to be rewritten."""


def _shows_outliers(sam: Sam, samples: Sequence[Sample], *, recipe: Recipe, session: Session) -> bool:
    """Find ranges, shares and outliers in one pass, which ends at the first images if they show outliers.

    Returns:
        Whether they do; False where the recipe does not ask, or where each process sees a share of the images.
    """
    if recipe.rewrite is not fold_outliers or session.engine.world > 1:
        return False
    outliers = OutlierMeter(sam, samples, cache=session.cache)
    if outliers.norms_with_outliers():
        return True
    shares = _watch_shares(sam, samples, recipe=recipe, session=session)

    @contextmanager
    def watch(sample: Sample) -> Iterator[None]:
        with outliers.watching(sample), shares(sample) if shares else nullcontext():
            yield
        if outliers.norms_with_outliers():
            raise _OutliersFound

    with suppress(_OutliersFound):
        find_ranges(sam, samples, observer=recipe.observer, session=session, watch=watch)
    return bool(outliers.norms_with_outliers())


def _watch_shares(sam: Sam, samples: Sequence[Sample], *, recipe: Recipe, session: Session) -> Watch | None:
    # In a group of processes, each one sees a share of the images only.
    if recipe.compensation is None or session.engine.world > 1:
        return None
    return ShareMeter(sam, samples, method=recipe.compensation, cache=session.cache).watching


def list_passes(recipe: Recipe, *, images: int, fitted: int, processes: int) -> list[Pass]:
    """List the parts of a calibration, in the order in which `analyze_for_recipe` enters them.

    Args:
        recipe: the recipe.
        images: of the calibration.
        fitted: images that a compensation is fitted to (`count_fitted`).
        processes: that share the calibration. One alone finds outliers and shares on the way, unless the ranges are
            cached or outliers make it begin again; the estimate leaves that out.
    """
    alone, ranges = processes == 1, Pass(images, finds_ranges=True)
    passes = [ranges]
    if recipe.rewrite is fold_outliers:
        # The ranges are looked up once more behind the rewrite, whose outliers the first pass has shown.
        passes = [ranges, Pass(0), Pass(0)] if alone else [Pass(min(OUTLIER_IMAGES, images)), ranges]
    elif recipe.rewrite is not None:
        passes = [Pass(min(FOLDING_IMAGES, images)), ranges]
    if recipe.compensation is not None:
        passes.append(Pass(0 if alone else fitted))
    return passes


def count_fitted(recipe: Recipe, sam: Sam, *, images: int) -> int:
    """Count the calibration images that a recipe's compensation is fitted to; 0 without one."""
    if recipe.compensation is None:
        return 0
    return len(recipe.compensation.select(range(images), side=sam.image_size, work=sam.costs().work))


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
