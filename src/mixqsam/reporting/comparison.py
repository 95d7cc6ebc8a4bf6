"""Write the comparison of recipes, budgets and bits as Markdown, CSV, JSON and a figure."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from matplotlib.figure import Figure

from mixqsam.options.numbers import format_giga
from mixqsam.prompts import describe_basis

Mode = Literal["float", "uniform", "mixed"]

_LINE_STYLES: Mapping[Mode, Mapping[str, Any]] = {
    "uniform": {"linestyle": "--", "marker": "o", "fillstyle": "none"},
    "mixed": {"linestyle": "-", "marker": "o"},
}


@dataclass(frozen=True)
class Row:
    """One quantized model.

    Attributes:
        recipe, budget, mode: how it was quantized.
        bits: bits of a uniform model, e.g. W4A4.
        size: bytes.
        bitops: BitOps per image.
        ap: COCO mask AP in percent; None without annotations.
        truth_iou: mean IoU with annotated masks; None without them.
        mean_iou: mean IoU with the float model's masks.
        seconds: time of the quantization, without the cache.
    """

    recipe: str
    budget: str
    mode: Mode
    bits: str
    size: float
    bitops: float
    ap: float | None
    truth_iou: float | None
    mean_iou: float
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """All models of a comparison.

    Attributes:
        model: the float model.
        calibration, evaluation: numbers of images.
        float_row: the float model; its `mean_iou` is 1.
        rows: the quantized models.
        settings: other settings for the reader.
        prompts: number of prompts of the evaluation; 0 in comparisons of earlier versions.
        prompt_kind: kind of these prompts, e.g. `grid points`.
    """

    model: str
    calibration: int
    evaluation: int
    float_row: Row
    rows: Sequence[Row]
    settings: Mapping[str, Any]
    prompts: int = 0
    prompt_kind: str = ""

    @property
    def basis(self) -> str:
        """The images and prompts of the evaluation, in words."""
        if not self.prompts:
            return f"{self.evaluation:,} images"
        return describe_basis(self.evaluation, self.prompts, self.prompt_kind)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {"format": "mixqsam-comparison", "version": 1, **asdict(self)}


def to_csv(comparison: Comparison) -> str:
    """Write one line for each model, the float model first."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(asdict(comparison.float_row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in (comparison.float_row, *comparison.rows))
    return stream.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """Write a table of quality and one of size, BitOps and time, with a column for each budget."""
    has_ap = comparison.float_row.ap is not None
    figures = (
        "AP / mean IoU with annotated masks / mean IoU with the float masks"
        if has_ap
        else "mean IoU with the float masks"
    )
    return "\n".join(
        [
            f"# {comparison.model}: recipes, budgets, bits",
            "",
            f"Calibrated on {comparison.calibration} images, quality measured on {comparison.basis}. "
            + ", ".join(f"{name}: {value}" for name, value in comparison.settings.items())
            + ".",
            "",
            f"Each cell: {figures}.",
            "",
            quality_table(comparison),
            "",
            "Size, BitOps and the time of the quantization; results from the cache took no time:",
            "",
            cost_table(comparison),
            "",
        ]
    )


def quality_table(comparison: Comparison) -> str:
    """Rows: recipe and mode; columns: budgets."""
    budgets = list_budgets(comparison)
    lines = [_format_line(["recipe", "bits", *budgets]), _format_line(["---", "---", *["---:"] * len(budgets)])]
    lines.append(_format_line(["float", "", *[_format_quality(comparison.float_row)] * len(budgets)]))
    for recipe, mode, by_budget in group_rows(comparison):
        lines.append(
            _format_line([recipe, mode, *(_format_quality(by_budget[b]) if b in by_budget else "–" for b in budgets)])
        )
    return "\n".join(lines)


def cost_table(comparison: Comparison) -> str:
    """Rows: recipe and mode; columns: budgets."""
    budgets, start = list_budgets(comparison), comparison.float_row
    lines = [_format_line(["recipe", "bits", *budgets]), _format_line(["---", "---", *["---:"] * len(budgets)])]
    lines.append(
        _format_line(["float", "", *[f"{start.size / 1e6:.2f} MB, {format_giga(start.bitops)} GBitOps"] * len(budgets)])
    )
    for recipe, mode, by_budget in group_rows(comparison):
        lines.append(
            _format_line([recipe, mode, *(_format_costs(by_budget[b]) if b in by_budget else "–" for b in budgets)])
        )
    return "\n".join(lines)


def list_budgets(comparison: Comparison) -> list[str]:
    """The budgets, in the order of the rows."""
    return list(dict.fromkeys(row.budget for row in comparison.rows))


def group_rows(comparison: Comparison) -> list[tuple[str, Mode, dict[str, Row]]]:
    """Recipe, kind of bits, and the row of each budget."""
    groups: dict[tuple[str, Mode], dict[str, Row]] = {}
    for row in comparison.rows:
        groups.setdefault((row.recipe, row.mode), {})[row.budget] = row
    return [(recipe, mode, rows) for (recipe, mode), rows in groups.items()]


def _format_quality(row: Row) -> str:
    figures = [f"{row.ap:.1f}"] if row.ap is not None else []
    figures += [f"{row.truth_iou:.3f}"] if row.truth_iou is not None else []
    return " / ".join([*figures, f"{row.mean_iou:.3f}"])


def _format_costs(row: Row) -> str:
    return f"{row.size / 1e6:.2f} MB, {format_giga(row.bitops)} GBitOps, {row.seconds:,.0f} s"


def _format_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def figure(comparison: Comparison) -> dict[str, bytes]:
    """Draw quality against size and against BitOps: file name → content (SVG and PNG)."""
    by_ap = comparison.float_row.ap is not None
    drawing = Figure(figsize=(12, 5.2), layout="constrained")
    size_axes, bitops_axes = drawing.subplots(1, 2, sharey=True)
    recipes = list(dict.fromkeys(row.recipe for row in comparison.rows))
    for recipe, mode, by_budget in group_rows(comparison):
        rows = sorted(by_budget.values(), key=lambda row: row.size)
        style = {**_LINE_STYLES[mode], "color": f"C{recipes.index(recipe)}", "label": f"{recipe}, {mode}"}
        heights = [row.ap if by_ap and row.ap is not None else row.mean_iou for row in rows]
        size_axes.plot([row.size / 1e6 for row in rows], heights, **style)
        bitops_axes.plot([row.bitops / 1e9 for row in rows], heights, **style)
    level = comparison.float_row.ap if by_ap and comparison.float_row.ap is not None else 1.0
    for axes, label in ((size_axes, "size, MB"), (bitops_axes, "BitOps per image, 10⁹")):
        axes.axhline(level, color="black", linewidth=0.8, label="float")
        axes.set_xlabel(label)
        axes.grid(visible=True, alpha=0.3)
    size_axes.set_ylabel("COCO mask AP" if by_ap else "mean IoU with the float masks")
    size_axes.set_title(f"{comparison.model}: dashed and hollow, uniform bits; solid, mixed bits", loc="left")
    drawing.legend(*size_axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return {f"comparison.{kind}": _render(drawing, kind) for kind in ("svg", "png")}


def _render(drawing: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    # A date would make the files of equal comparisons differ.
    drawing.savefig(stream, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    return stream.getvalue()
