"""Write the comparison as a table for a paper, in LaTeX."""

import re
from collections.abc import Sequence

from mixqsam.reporting.comparison import Comparison, Row, group_rows, list_budgets

# Characters that LaTeX reads as commands.
_SPECIAL = re.compile(r"[&%$#_{}]")


def to_latex(comparison: Comparison) -> str:
    """Write a table of quality: a row for each recipe and kind of bits, a column for each budget.

    With annotations the figure is AP, otherwise the mean IoU with the float masks. The best of each column is bold. The
    table needs the package `booktabs`.
    """
    budgets = list_budgets(comparison)
    best = {b: max((_value(row, comparison) for row in comparison.rows if row.budget == b), default=0) for b in budgets}
    lines = [
        rf"\begin{{tabular}}{{ll{'r' * len(budgets)}}}",
        r"\toprule",
        _line(["Method", "Bits", *(_escape(budget) for budget in budgets)]),
        r"\midrule",
        _line(["Float", "32", *[_text(comparison.float_row, comparison)] * len(budgets)]),
        r"\midrule",
    ]
    for recipe, mode, by_budget in group_rows(comparison):
        cells = [_cell(by_budget.get(budget), comparison, best=best[budget]) for budget in budgets]
        lines.append(_line([_escape(recipe), mode, *cells]))
    figures = "AP" if comparison.float_row.ap is not None else "Mean IoU with the float masks"
    caption = _escape(
        f"{comparison.model}. {figures}; {comparison.basis}; {comparison.calibration} calibration images."
    )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", f"% {caption}", ""])


def _value(row: Row, comparison: Comparison) -> float:
    return row.ap if comparison.float_row.ap is not None and row.ap is not None else row.mean_iou


def _text(row: Row, comparison: Comparison) -> str:
    has_ap = comparison.float_row.ap is not None
    return f"{_value(row, comparison):.{1 if has_ap else 3}f}"


def _cell(row: Row | None, comparison: Comparison, *, best: float) -> str:
    if row is None:
        return "--"
    text = _text(row, comparison)
    return rf"\textbf{{{text}}}" if _value(row, comparison) == best else text


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escape(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"\\{found.group()}", text)
