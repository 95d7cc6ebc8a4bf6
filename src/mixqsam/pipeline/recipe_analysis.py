"""The analysis of a model as its recipe will round it."""

from collections.abc import Mapping, Sequence

from mixqsam.allocation.budget import Budget
from mixqsam.data.samples import Sample
from mixqsam.measurements import Analysis
from mixqsam.pipeline.options import AnalysisOptions
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import analyze_model
from mixqsam.plan import HALF_BITS, BitPlan, UnitBits
from mixqsam.quantization.compensation.share import ShareMeter, find_shares
from mixqsam.quantization.quantize import rewrite
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.steps.folding import FOLDING_IMAGES
from mixqsam.quantization.steps.outliers import OUTLIER_IMAGES, fold_outliers
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
        with session.timed("calibration"):
            plan = _expected_plan(sam, budget)
            sam = rewrite(sam, plan, samples, recipe=recipe, cache=session.cache, progress=session.progress)
    watch = None
    # In a group of processes, each one sees a share of the images only.
    if recipe.compensation is not None and session.engine.world == 1:
        watch = ShareMeter(sam, samples, method=recipe.compensation, cache=session.cache).watching
    analysis = analyze_model(sam, samples, options=options, session=session, observer=recipe.observer, watch=watch)
    return adapt_analysis(analysis, sam, samples, recipe=recipe, session=session)


def list_passes(recipe: Recipe, *, images: int, side: int, processes: int) -> list[int]:
    """The passes that a recipe adds to an analysis, by their number of images: its rewrite, and its shares.

    Args:
        recipe: the recipe.
        images: of the calibration.
        side: of the model's frame in pixels.
        processes: that share the calibration. One alone finds the shares on the way, unless the ranges are cached; the
            estimate leaves that out.
    """
    passes = []
    if recipe.rewrite is not None:
        passes.append(min(OUTLIER_IMAGES if recipe.rewrite is fold_outliers else FOLDING_IMAGES, images))
    if recipe.compensation is not None:
        passes.append(count_fitted(recipe, images=images, side=side) if processes > 1 else 0)
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
