"""Write a comparison as Markdown."""

from collections.abc import Callable, Sequence

from mixqsam.options.numbers import format_giga
from mixqsam.reporting.comparison import Comparison, DetectorFigures, Row, group_rows, list_budgets


def to_markdown(comparison: Comparison) -> str:
    """Write tables of quality, and one of size, BitOps and time.

    The table of quality has a column for each budget. Where boxes have detectors' names, each budget has a table, with
    a column for each detector.
    """
    return "\n".join(
        [
            f"# {comparison.model}: recipes, budgets, bits",
            "",
            f"Calibrated on {comparison.calibration} images, quality measured on {comparison.basis}. "
            + ", ".join(f"{name}: {value}" for name, value in comparison.settings.items())
            + ".",
            "",
            *(_write_detectors(comparison) if comparison.detectors else _write_quality(comparison)),
            "",
            "Size, BitOps and the time of the quantization; results from the cache took no time:",
            "",
            _make_table(comparison, _format_costs, _format_float_costs(comparison.float_row)),
            "",
        ]
    )


def _write_quality(comparison: Comparison) -> list[str]:
    figures = (
        "AP / mean IoU with annotated masks / mean IoU with the float masks"
        if comparison.has_ap
        else "mean IoU with the float masks"
    )
    table = _make_table(comparison, _format_quality, _format_quality(comparison.float_row))
    return [f"Each cell: {figures}.", "", table]


def _write_detectors(comparison: Comparison) -> list[str]:
    """A section for each budget, with a column for each detector."""
    figures = "AP / mean IoU with the float masks" if comparison.has_ap else "mean IoU with the float masks"
    boxes = ", ".join(
        f"{name} {found.prompts:,} boxes on {found.images:,} images" for name, found in comparison.detectors.items()
    )
    lines = [f"Each column has the boxes of one detector: {boxes}. Each cell: {figures}."]
    for budget in list_budgets(comparison):
        lines += ["", f"## {budget}", "", _make_detector_table(comparison, budget)]
    return lines


def _make_detector_table(comparison: Comparison, budget: str) -> str:
    """Rows: recipe and mode; columns: detectors."""
    detectors = list(comparison.detectors)
    rows = [(recipe, mode, by[budget]) for recipe, mode, by in group_rows(comparison) if budget in by]
    lines = [_format_line(["recipe", "bits", *detectors]), _format_line(["---", "---", *["---:"] * len(detectors)])]
    for recipe, mode, row in [("float", "", comparison.float_row), *rows]:
        lines.append(_format_line([recipe, mode, *(_format_detector(row.by_detector[name]) for name in detectors)]))
    return "\n".join(lines)


def _make_table(comparison: Comparison, format_row: Callable[[Row], str], float_cell: str) -> str:
    """Rows: recipe and mode; columns: budgets."""
    budgets = list_budgets(comparison)
    lines = [_format_line(["recipe", "bits", *budgets]), _format_line(["---", "---", *["---:"] * len(budgets)])]
    lines.append(_format_line(["float", "", *[float_cell] * len(budgets)]))
    for recipe, mode, by_budget in group_rows(comparison):
        cells = [format_row(by_budget[budget]) if budget in by_budget else "–" for budget in budgets]
        lines.append(_format_line([recipe, mode, *cells]))
    return "\n".join(lines)


def _format_quality(row: Row) -> str:
    figures = [f"{row.ap:.1f}"] if row.ap is not None else []
    figures += [f"{row.truth_iou:.3f}"] if row.truth_iou is not None else []
    return " / ".join([*figures, f"{row.mean_iou:.3f}"])


def _format_detector(found: DetectorFigures) -> str:
    return " / ".join([*([f"{found.ap:.1f}"] if found.ap is not None else []), f"{found.mean_iou:.3f}"])


def _format_costs(row: Row) -> str:
    return f"{_format_float_costs(row)}, {row.seconds:,.0f} s"


def _format_float_costs(row: Row) -> str:
    return f"{row.size / 1e6:.2f} MB, {format_giga(row.bitops)} GBitOps"


def _format_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
