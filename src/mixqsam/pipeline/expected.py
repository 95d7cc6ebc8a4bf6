"""The quality to expect of a model that has not been made: from measured sizes of a search, or from the analysis."""

from itertools import pairwise
from pathlib import Path

from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.program import Objective, predict_divergence
from mixqsam.errors import BudgetError
from mixqsam.measurements import Analysis
from mixqsam.pipeline.report import read_run
from mixqsam.reporting.record import NAME, Run, Search
from mixqsam.reporting.scatter import Point, frontier

# Metric of a search → what its values are.
_QUALITIES = {"iou": "IoU with the float masks", "ap": "share of the float model's AP"}


class Expectation:
    """Describes the expected quality of allocations of one analysed model.

    Args:
        directory: a directory that `quantize` wrote.
        analysis: its analysis.
        stored: its allocation.
        objective: of the allocations that are described.

    Raises:
        ArtifactError: the directory's record cannot be read.
    """

    def __init__(self, directory: Path, analysis: Analysis, stored: Allocation, objective: Objective) -> None:
        self._analysis, self._objective = analysis, objective
        self._run = read_run(directory) if (directory / NAME).is_file() else None
        self._own = self._predict(stored)

    def describe(self, allocation: Allocation) -> str:
        """Describe the quality to expect, and say whether it was measured or is predicted."""
        search = self._run.search if self._run else None
        if self._run is not None and search is not None and len(search.tried) > 1:
            return describe_curve(search, allocation, recipe=self._run.recipe)
        predicted = self._predict(allocation)
        if predicted is None:
            return (
                f"Expected quality: unknown. The directory has no measured sizes, and the utility "
                f"{self._objective.utility} predicts no divergence."
            )
        return (
            f"Expected quality, predicted by the analysis: a divergence of {predicted:.3g} from the float model"
            f"{self._compare(predicted)}. Nothing was measured at this size."
        )

    def _predict(self, allocation: Allocation) -> float | None:
        try:
            return predict_divergence(self._analysis, allocation.plan, self._objective)
        except BudgetError:
            # A uniform budget measures nothing.
            return None

    def _compare(self, predicted: float) -> str:
        """The end of a sentence: how this compares with the stored model, and how good that one is."""
        if not self._own:
            return ""
        measured = _own_quality(self._run) if self._run else ""
        return f", {predicted / self._own:.2g} times that of the model as it is{measured}"


def _own_quality(run: Run) -> str:
    iou = run.quantized.mean_iou
    return "" if iou is None else f", whose masks agree with IoU {iou:.3f} (measured)"


def describe_curve(search: Search, allocation: Allocation, *, recipe: str) -> str:
    """Describe the quality at a size by the measured sizes around it.

    Args:
        search: a search with at least two measured sizes.
        allocation: the bits that were not measured.
        recipe: how the measured models were made.
    """
    quality = _QUALITIES[search.metric]
    begin = f"Expected quality, from sizes measured on {search.images} images (recipe {recipe}):"
    # Where a smaller model was measured to be better, the larger one tells nothing.
    curve = frontier([Point("", "mixed", one.size, one.quality) for one in search.tried])
    lower = [point for point in curve if point.size <= allocation.size]
    if not lower:
        return f"{begin} less than {curve[0].quality:.3f} {quality}, which {_megabytes(curve[0].size)} has."
    needed = max(one.bitops for one in search.tried if one.size == lower[-1].size)
    caveat = "" if allocation.bitops >= needed else _describe_fewer(needed)
    for below, above in pairwise(curve):
        if below.size <= allocation.size < above.size:
            share = (allocation.size - below.size) / (above.size - below.size)
            value = below.quality + share * (above.quality - below.quality)
            ends = [f"{_megabytes(one.size)} ({one.quality:.3f})" for one in (below, above)]
            return f"{begin} about {value:.3f} {quality}, between {ends[0]} and {ends[1]}.{caveat}"
    return f"{begin} at least {curve[-1].quality:.3f} {quality}, which {_megabytes(curve[-1].size)} has.{caveat}"


def _describe_fewer(needed: float) -> str:
    return f" Expect less: the measured models have more BitOps ({needed / 1e9:.4g} G)."


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.2f} MB"
