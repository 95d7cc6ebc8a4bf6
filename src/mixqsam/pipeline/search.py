"""Search the smallest model that keeps a quality: bisection over sizes, with one analysis for all of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation, find_size_span
from mixqsam.allocation.quality import QualityTarget
from mixqsam.calibrate import name_rounding
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError, BudgetError
from mixqsam.evaluation.evaluate import EvaluationResult, evaluate
from mixqsam.files import digest, digest_file
from mixqsam.measurements import Analysis
from mixqsam.pipeline.check import CheckImages
from mixqsam.pipeline.options import Options
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import choose_bits, quantize_model
from mixqsam.plan import HALF_BITS
from mixqsam.quantization.recipes import find_recipe
from mixqsam.reporting.record import Search, TriedSize
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor

# Increase it when judgements change their meaning, so that old ones in the cache are not used.
_VERSION = 1
# The search ends when the smallest sufficient size is larger than an insufficient one by less than this factor.
_PRECISION = 1.02
# Sizes that are tried for the curve where even the largest one does not suffice.
_CURVE = 3


@dataclass(frozen=True)
class Tried:
    """A measured model.

    Attributes:
        allocation: its bits.
        quality: in the unit of the target.
    """

    allocation: Allocation
    quality: float


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        allocation: the chosen bits.
        record: the search, as the directory stores it; it lacks the final quality.
    """

    allocation: Allocation
    record: Search


class Judge:
    """Quantizes models and measures them on the images that judge; the cache stores each judgement.

    Args:
        sam: the float model.
        samples: images of the quantization.
        judging: images that the quantization does not use.
        target: what is measured.
        options: options of the job.
        session: cache and progress.
    """

    def __init__(
        self,
        sam: Sam,
        samples: Sequence[Sample],
        judging: CheckImages,
        *,
        target: QualityTarget,
        options: Options,
        session: Session,
    ) -> None:
        self._sam, self._samples, self.judging = sam, samples, judging
        self._target, self._options, self._session = target, options, session
        # Its embeddings of the few images are the same for every model that is tried.
        self._reference = SamPredictor(sam, embeddings=session.cache.root / "embeddings")
        self._key = digest(
            _VERSION,
            target.metric,
            sam.fingerprint,
            find_recipe(options.quantization.recipe).key,
            asdict(options.quantization.reconstruction),
            [sample.digest() for sample in samples],
            *name_rounding(sam, samples),
            [sample.labelled_digest() for sample in judging.samples],
            judging.annotations and digest_file(judging.annotations),
        )

    def __call__(self, allocation: Allocation) -> Tried:
        """Measure the model with these bits.

        Raises:
            AnnotationError: the quality is undefined, because the float model has no AP on these images.
        """
        cache, key = self._session.cache, digest(self._key, allocation.plan.to_json())
        quality = cache.get("judgement", key)
        if quality is None:
            quality = self._measure(allocation)
            cache.put("judgement", key, quality)
        return Tried(allocation, float(quality))

    def _measure(self, allocation: Allocation) -> float:
        options, session = self._options.quantization, self._session
        quantized = quantize_model(self._sam, allocation.plan, self._samples, options=options, session=session)
        results = evaluate(
            {"float": self._reference, "quantized": SamPredictor(quantized.sam)},
            self.judging.samples,
            annotations=self.judging.annotations,
            progress=session.progress,
        )
        quality = find_quality(self._target, results["quantized"], results["float"])
        if quality is None:
            raise AnnotationError(
                f"The float model has no AP on the {len(self.judging.samples)} images that judge; give more images "
                "(--count), or a target such as iou>=0.98."
            )
        return quality


def find_quality(target: QualityTarget, result: EvaluationResult, reference: EvaluationResult) -> float | None:
    """Find the quality of a model in the unit of a target; None for a share of an AP that is 0 or undefined."""
    if target.metric == "iou":
        return result.fidelity.mean_iou if result.fidelity else None
    if result.coco is None or reference.coco is None or reference.coco.ap <= 0:
        return None
    return max(0.0, result.coco.ap) / reference.coco.ap


def search_bits(analysis: Analysis, budget: Budget, judge: Judge, *, options: Options, session: Session) -> Found:
    """Search the smallest model within a budget's limits that keeps its quality.

    Args:
        analysis: units and their measurements.
        budget: a target of quality, and limits.
        judge: measures the tried models.
        options: options of the job.
        session: progress.

    Returns:
        The smallest model that suffices; where none does, the best one.

    Raises:
        BudgetError: no choice of bits meets the limits.
        AnnotationError: the quality is undefined on the images that judge.
    """
    target, chosen = budget.quality, options.allocation
    assert target is not None  # noqa: S101  (callers search only for a target)
    span = find_size_span(analysis.costs, budget, candidates=chosen.choices, tied=chosen.tied, keep=chosen.keep)

    def measure(size: float) -> Tried:
        return judge(choose_bits(analysis, budget.with_size(size), options=chosen))

    with session.timed("search"):
        tries = try_sizes(measure, span, target=target.value)
        tried = list(session.progress.track(tries, label="Trying sizes", total=count_tries(span)))
    sufficient = [one for one in tried if one.quality >= target.value]
    best = (
        min(sufficient, key=lambda one: one.allocation.size)
        if sufficient
        else max(tried, key=lambda one: (one.quality, -one.allocation.size))
    )
    return Found(best.allocation, _record(tried, best, judge, target, _advise(budget, options)))


def try_sizes(measure: Callable[[float], Tried], span: tuple[float, float], *, target: float) -> Iterator[Tried]:
    """Measure models until the smallest sufficient one is nearly as small as an insufficient limit.

    The largest model comes first: where it does not suffice, smaller ones are measured for the curve alone. Otherwise
    the interval of sizes is halved on a logarithmic scale.

    Args:
        measure: measures the best model of a size in bytes.
        span: smallest and largest size.
        target: quality that suffices.
    """
    low, high = span
    largest = measure(high)
    yield largest
    if largest.quality < target:
        for step in range(1, _CURVE + 1):
            yield measure(high * (low / high) ** (step / (_CURVE + 2)))
        return
    enough = largest.allocation.size
    while enough > low * _PRECISION:
        middle = math.sqrt(enough * low)
        try:
            tried = measure(middle)
        except BudgetError:
            # The limit of BitOps leaves no model as small as that.
            low = middle
            continue
        yield tried
        if tried.quality >= target:
            enough = tried.allocation.size
        else:
            low = middle


def count_tries(span: tuple[float, float]) -> int:
    """How many models a search measures, about."""
    low, high = span
    return 1 + max(1, math.ceil(math.log2(max(1.0, math.log(high / low) / math.log(_PRECISION)))))


def _record(tried: Sequence[Tried], best: Tried, judge: Judge, target: QualityTarget, advice: Sequence[str]) -> Search:
    samples = judge.judging.samples
    reached = best.quality >= target.value
    ordered = sorted(tried, key=lambda one: one.allocation.size)
    return Search(
        metric=target.metric,
        target=target.value,
        size=best.allocation.size,
        reached=reached,
        tried=[
            TriedSize(size=one.allocation.size, bitops=one.allocation.bitops, quality=one.quality) for one in ordered
        ],
        images=len(samples),
        prompts=sum(len(sample.prompts) for sample in samples),
        kind=" and ".join(sorted({sample.prompt_kind for sample in samples})),
        advice=[] if reached else list(advice),
    )


def _advise(budget: Budget, options: Options) -> list[str]:
    """What to try where no model reaches the target."""
    recipe, allocation = find_recipe(options.quantization.recipe), options.allocation
    advice = []
    if recipe.method is None and recipe.compensation is None:
        advice.append("--recipe compensated")
    if allocation.tied:
        advice.append("--free")
    if HALF_BITS not in allocation.choices:
        advice.append("--candidates 2-8,16")
    if budget.terms:
        advice.append("larger limits")
    return [*advice, "a lower target"]
