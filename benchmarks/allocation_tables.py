"""Tables of ways to choose bits in docs/experiments.md, from docs/data/allocation.json.

Their models have the output distribution bernoulli; docs/data/allocation.csv has all of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.performance_tables import line
from benchmarks.recipe_tables import quality_cell

BUDGETS = ("W6A6", "W5A5", "W4A4", "W3A3")
SYNERGY_WEIGHTS = (0.0, 0.1, 0.3, 1.0)
MEASUREMENTS = {
    "free": "7 bit-widths, 32 images",
    "free, measured at (2, 4, 8)": "2, 4 and 8 bits, 32 images",
    "free, measured at (4,)": "4 bits, 32 images",
    "free, 8 images": "7 bit-widths, 8 images",
    "free, 4 images": "7 bit-widths, 4 images",
    "free, 2 images": "7 bit-widths, 2 images",
}
Row = dict[str, Any]


def main_table(data: Any) -> str:
    """Every utility without synergy, the paper's reading, uniform."""

    def label(row: Row) -> str | None:
        if row["bits"] == "uniform":
            return "uniform"
        if row["output"] != "bernoulli" or row["lambda"]:
            return None
        if row["bits"] == "paper":
            return "the paper's reading"
        return f"{row['utility']}, {row['bits']}" if row["bits"] in {"tied", "free"} else None

    return _budget_table("bits chosen by", _by_label(data, label))


def cheap_table(data: Any) -> str:
    """The measured utility from less measuring."""

    def label(row: Row) -> str | None:
        chosen = row["utility"] == "measured" and row["output"] == "bernoulli" and not row["lambda"]
        return MEASUREMENTS.get(row["bits"]) if chosen else None

    rows = _by_label(data, label)
    return _budget_table("measured", {name: rows[name] for name in MEASUREMENTS.values()})


def synergy_table(data: Any) -> str:
    """The sweep of λ for both estimators, with tied bits: the mean over the budgets of the IoU with the float masks."""

    def label(row: Row) -> str | None:
        chosen = row["bits"] == "tied" and row["output"] == "bernoulli"
        return f"{row['utility']}, {row['synergy']}, {row['lambda']}" if chosen else None

    rows = _by_label(data, label)
    lines = [line(["utility", "estimator", *(f"λ = {weight:g}" for weight in SYNERGY_WEIGHTS)])]
    lines.append(line(["---", "---", *["---:"] * len(SYNERGY_WEIGHTS)]))
    for utility in ("linear", "exponential", "measured"):
        for estimator in ("proximity", "interaction"):
            # Rows without synergy name no estimator.
            keys = [f"{utility}, {estimator if weight else ''}, {weight}" for weight in SYNERGY_WEIGHTS]
            lines.append(line([utility, estimator, *(f"{_mean_fidelity(rows[key]):.3f}" for key in keys)]))
    return "\n".join(lines)


def _by_label(data: Any, label: Callable[[Row], str | None]) -> dict[str, dict[str, Row]]:
    """Rows by what `label` calls them and by budget; those without a label are left out."""
    rows: dict[str, dict[str, Row]] = {}
    for row in data["rows"]:
        name = label(row)
        if name is not None:
            rows.setdefault(name, {})[row["budget"]] = row
    return rows


def _budget_table(title: str, rows: Mapping[str, Mapping[str, Row]]) -> str:
    lines = [line([title, *BUDGETS, "mean of the last figure"]), line(["---", *["---:"] * (len(BUDGETS) + 1)])]
    for name, by_budget in rows.items():
        cells = [quality_cell(by_budget[budget]) for budget in BUDGETS]
        lines.append(line([name, *cells, f"{_mean_fidelity(by_budget):.3f}"]))
    return "\n".join(lines)


def _mean_fidelity(by_budget: Mapping[str, Row]) -> float:
    """Mean over the budgets of the mean IoU with the float model's masks."""
    return sum(float(by_budget[budget]["fidelity"]["mean_iou"]) for budget in BUDGETS) / len(BUDGETS)
