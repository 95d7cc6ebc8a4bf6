"""Write the comparison as a table for a paper, in LaTeX."""

import re
from collections.abc import Sequence

from mixqsam.reporting.comparison import Comparison, DetectorFigures, Row, group_rows, list_budgets

# Characters that LaTeX reads as commands.
_SPECIAL = re.compile(r"[&%$#_{}]")


def to_latex(comparison: Comparison) -> str:
    """Write a table of quality: a row for each recipe and kind of bits, a column for each budget.

    Where boxes have detectors' names, each budget has a column for each detector. With annotations the figure is AP,
    otherwise the mean IoU with the float masks. The best of each column is bold. The table needs the package
    `booktabs`.
    """
    budgets, detectors = list_budgets(comparison), list(comparison.detectors) or [""]
    columns = [(budget, detector) for budget in budgets for detector in detectors]
    lines = [
        rf"\begin{{tabular}}{{ll{'r' * len(columns)}}}",
        r"\toprule",
        *_headings(comparison, budgets),
        r"\midrule",
        _line(["Float", "32", *(_text(comparison.float_row, comparison, detector) for _, detector in columns)]),
        r"\midrule",
    ]
    best = {column: _best(comparison, *column) for column in columns}
    for recipe, mode, by_budget in group_rows(comparison):
        cells = [
            _cell(by_budget.get(budget), comparison, detector, best=best[budget, detector])
            for budget, detector in columns
        ]
        lines.append(_line([_escape(recipe), mode, *cells]))
    figures = "AP" if comparison.has_ap else "Mean IoU with the float masks"
    caption = _escape(
        f"{comparison.model}. {figures}; {comparison.basis}; {comparison.calibration} calibration images."
    )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", f"% {caption}", ""])


def _headings(comparison: Comparison, budgets: Sequence[str]) -> list[str]:
    """The budgets; where boxes have detectors' names, above a line of the detectors."""
    names = [_escape(budget) for budget in budgets]
    if not comparison.detectors:
        return [_line(["Method", "Bits", *names])]
    width = len(comparison.detectors)
    spans = [rf"\multicolumn{{{width}}}{{c}}{{{name}}}" for name in names]
    starts = [3 + width * place for place in range(len(budgets))]
    rules = "".join(rf"\cmidrule(lr){{{start}-{start + width - 1}}}" for start in starts)
    detectors = [_escape(name) for name in comparison.detectors] * len(budgets)
    return [_line(["", "", *spans]), rules, _line(["Method", "Bits", *detectors])]


def _best(comparison: Comparison, budget: str, detector: str) -> float:
    return max((_value(row, detector) for row in comparison.rows if row.budget == budget), default=0)


def _value(row: Row, detector: str) -> float:
    figures: Row | DetectorFigures = row.by_detector[detector] if detector else row
    return figures.mean_iou if figures.ap is None else figures.ap


def _text(row: Row, comparison: Comparison, detector: str) -> str:
    return f"{_value(row, detector):.{1 if comparison.has_ap else 3}f}"


def _cell(row: Row | None, comparison: Comparison, detector: str, *, best: float) -> str:
    if row is None:
        return "--"
    text = _text(row, comparison, detector)
    return rf"\textbf{{{text}}}" if _value(row, detector) == best else text


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escape(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"\\{found.group()}", text)
