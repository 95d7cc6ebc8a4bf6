"""Draw a comparison: quality against size and against BitOps."""

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from mixqsam.reporting.comparison import Comparison, Mode, group_rows

_LINE_STYLES: Mapping[Mode, Mapping[str, Any]] = {
    "uniform": {"linestyle": "--", "marker": "o", "fillstyle": "none"},
    "mixed": {"linestyle": "-", "marker": "o"},
}


def draw_figure(comparison: Comparison) -> dict[str, bytes]:
    """Draw quality against size and against BitOps: file name → content (SVG and PNG)."""
    drawing = Figure(figsize=(12, 5.2), layout="constrained")
    size_axes, bitops_axes = drawing.subplots(1, 2, sharey=True)
    recipes = list(dict.fromkeys(row.recipe for row in comparison.rows))
    for recipe, mode, by_budget in group_rows(comparison):
        rows = sorted(by_budget.values(), key=lambda row: row.size)
        style = {**_LINE_STYLES[mode], "color": f"C{recipes.index(recipe)}", "label": f"{recipe}, {mode}"}
        heights = [row.mean_iou if row.ap is None else row.ap for row in rows]
        size_axes.plot([row.size / 1e6 for row in rows], heights, **style)
        bitops_axes.plot([row.bitops / 1e9 for row in rows], heights, **style)
    level = 1.0 if comparison.float_row.ap is None else comparison.float_row.ap
    for axes, label in ((size_axes, "size, MB"), (bitops_axes, "BitOps per image, 10⁹")):
        axes.axhline(level, color="black", linewidth=0.8, label="float")
        axes.set_xlabel(label)
        axes.grid(visible=True, alpha=0.3)
    quality = "COCO mask AP" if comparison.has_ap else "mean IoU with the float masks"
    size_axes.set_ylabel(f"{quality}, mean over detectors" if comparison.detectors else quality)
    size_axes.set_title(f"{comparison.model}: dashed and hollow, uniform bits; solid, mixed bits", loc="left")
    drawing.legend(*size_axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return {f"comparison.{kind}": _render(drawing, kind) for kind in ("svg", "png")}


def _render(drawing: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    # A date would make the files of equal comparisons differ.
    drawing.savefig(stream, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    return stream.getvalue()
