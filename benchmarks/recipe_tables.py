"""Tables of recipes in docs/experiments.md, from docs/data/comparison.json and brecq_check.json."""

from collections.abc import Sequence
from typing import Any

from benchmarks.performance_tables import line, load
from mixqsam.quantization.recipes import RECIPES
from mixqsam.reporting.comparison import Comparison, Row


def comparison() -> Comparison:
    """The comparison of recipes, as `mixqsam compare` wrote it."""
    data = load("comparison")
    rows = [Row(**row) for row in data["rows"]]
    known = {key: data[key] for key in ("model", "calibration", "evaluation", "settings")}
    return Comparison(float_row=Row(**data["float_row"]), rows=rows, **known)


def is_learned(row: Row) -> bool:
    """Whether the row's recipe reconstructs the model."""
    return RECIPES[row.recipe].method is not None


def recipes_table(models: Comparison, *, learned: bool) -> str:
    """AP and mean IoU with the float masks: a row for each recipe, a column for each budget and kind of bits."""
    rows = [row for row in models.rows if is_learned(row) == learned]
    columns = list(dict.fromkeys((row.budget, row.mode) for row in rows))
    by_model = {(row.recipe, row.budget, row.mode): row for row in rows}
    header = ["recipe", *(f"{budget} {mode}" for budget, mode in columns)]
    cells = [
        [recipe, *(_quality(by_model[recipe, budget, mode]) for budget, mode in columns)]
        for recipe in dict.fromkeys(row.recipe for row in rows)
    ]
    return "\n".join(line(row) for row in (header, ["---", *["---:"] * len(columns)], *cells))


def _quality(row: Row) -> str:
    return f"{row.ap:.1f} / {row.mean_iou:.3f}"


def recipes_cost(models: Comparison) -> str:
    """Size, BitOps and time of each budget: the smallest and the largest of all its models."""
    lines = [line(["model", "size, MB", "GBitOps", "nearest, s", "reconstruction, s"]), line(["---", *["---:"] * 4])]
    whole = models.float_row
    lines.append(line(["float", f"{whole.size / 1e6:.2f}", f"{whole.bitops / 1e9:,.1f}", "–", "–"]))
    for budget in dict.fromkeys(row.budget for row in models.rows):
        rows = [row for row in models.rows if row.budget == budget]
        seconds = [[row.seconds for row in rows if is_learned(row) == learned] for learned in (False, True)]
        cells = [_span([row.size / 1e6 for row in rows], ".2f"), _span([row.bitops / 1e9 for row in rows], ".1f")]
        lines.append(line([budget, *cells, *(_span(times, ".0f") for times in seconds)]))
    return "\n".join(lines)


def _span(values: Sequence[float], form: str) -> str:
    """The extremes of some values, or their only one."""
    return " to ".join(dict.fromkeys(format(value, form) for value in (min(values), max(values))))


def brecq_table() -> str:
    """The check of why BRECQ loses."""
    data = load("brecq_check")
    lines = [line(["recipe, bits", "AP / IoU / IoU to float"]), line(["---", "---:"])]
    return "\n".join([*lines, *(line([label, quality_cell(score)]) for label, score in data.items())])


def quality_cell(score: dict[str, Any]) -> str:
    """AP, mean IoU with the annotated masks, mean IoU with the float model's."""
    fidelity = score["fidelity"]["mean_iou"]
    return f"{score['coco']['ap']:.1f} / {score['truth_iou']:.3f} / {fidelity:.3f}"
