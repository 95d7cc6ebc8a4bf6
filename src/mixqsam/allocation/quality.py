"""Parse targets of quality, the part of a budget that a model is measured for."""

import re
from dataclasses import dataclass
from typing import Literal

from mixqsam.errors import BudgetError

Metric = Literal["iou", "ap"]
# Metric → what it measures, and how a target is written.
METRICS: dict[Metric, tuple[str, str]] = {
    "iou": ("mean IoU with the float masks", "iou>=0.98"),
    "ap": ("share of the float model's AP", "ap>=0.97x"),
}


@dataclass(frozen=True)
class QualityTarget:
    """The least quality that a model keeps.

    Attributes:
        metric: `iou`, the mean IoU with the float masks, or `ap`, the share of the float model's AP.
        value: at most 1.
    """

    metric: Metric
    value: float

    def __str__(self) -> str:
        return f"{self.metric}>={self.value:g}{'x' if self.metric == 'ap' else ''}"


def parse_quality(text: str) -> QualityTarget | None:
    """Parse a target such as `iou>=0.98` or `ap>=0.97x`; None for a term of a budget that is not a comparison.

    Raises:
        BudgetError: the metric is unknown, or its target cannot be understood or reached.
    """
    if text.lower() in METRICS:
        raise BudgetError(
            f"Budget {text!r} names a metric without its target. A shell takes > for a file unless the budget "
            f'stands in quotes: --budget "{METRICS[_find_metric(text)][1]}".'
        )
    match = re.fullmatch(r"([a-z_ ]*?)\s*(>=|≥|<=|≤|=>|=<|==|>|<|=)\s*(.*)", text.lower())
    if match is None or (match[2] == "=" and match[1] not in METRICS):
        return None
    name, comparison, amount = match.groups()
    if name not in METRICS:
        known = ", ".join(f"{name} ({what}, e.g. {example})" for name, (what, example) in METRICS.items())
        raise BudgetError(f"Budget {text!r:.60}: the metric {name!r} is unknown; choose {known}.")
    metric = _find_metric(name)
    number = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(x|%)?", amount)
    if number is None:
        raise BudgetError(f"Budget {text!r:.60} cannot be understood; write {METRICS[metric][1]}.")
    value = float(number[1]) / (100 if number[2] == "%" else 1)
    target = QualityTarget(metric, value)
    if comparison not in {">=", "≥"}:
        raise BudgetError(f"Budget {text!r:.60}: a model keeps at least a quality; did you mean {target}?")
    _check_range(text, target, unit=number[2] or "")
    return target


def _find_metric(name: str) -> Metric:
    return next(metric for metric in METRICS if metric == name.lower())


def _check_range(text: str, target: QualityTarget, *, unit: str) -> None:
    """Check that a target lies above 0 and up to 1, in the unit of its metric."""
    is_share = target.metric == "ap"
    if is_share and not unit:
        example = f"{target.value:g}x" if target.value <= 1 else "0.97x"
        raise BudgetError(
            f"Budget {text!r:.60}: the AP is given as a share of the float model's; did you mean ap>={example}?"
        )
    if not is_share and unit == "x":
        raise BudgetError(f"Budget {text!r:.60}: an IoU is not a share of the float model's; write {target}.")
    if target.value > 1:
        most = "the float model's AP" if is_share else "an IoU of 1"
        raise BudgetError(
            f"Budget {text!r:.60}: no model is sure to reach more than {most}; write {METRICS[target.metric][1]}."
        )
    if target.value <= 0:
        raise BudgetError(f"Budget {text!r:.60}: a target above 0 is expected, e.g. {METRICS[target.metric][1]}.")
