"""Tables and lines of allocations and reports; loaded only when a command runs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.uniform import uniform_label
from mixqsam.cli.console import Table, models_table, rows_table
from mixqsam.evaluation.evaluate import EvaluationResult
from mixqsam.measurements import Analysis
from mixqsam.options.numbers import format_giga
from mixqsam.prompts import describe_basis
from mixqsam.reporting.comparison import Comparison, DetectorFigures
from mixqsam.reporting.record import Latency, Search
from mixqsam.reporting.searched import HEADINGS


def allocation_table(
    title: str,
    analysis: Analysis,
    allocation: Allocation,
    uniform: Allocation | None,
    results: Mapping[str, EvaluationResult],
    latency: Latency | None = None,
) -> Table:
    """Make a table of the float model, the largest uniform model within the budget, and the allocation.

    After a uniform budget the last two are one model, and have one column.
    """
    costs = analysis.costs
    rows: dict[str, dict[str, Any]] = {
        "float": {
            "size": costs.size(costs.float_plan),
            "bitops": costs.bitops(costs.float_plan),
            "latency": costs.latency(costs.float_plan) if costs.times else None,
        }
    }
    headings = {"float": "float", "mixed": "mixed"}
    if uniform is not None:
        headings["uniform"] = f"uniform {uniform_label(analysis, uniform)}"
        rows["uniform"] = {"size": uniform.size, "bitops": uniform.bitops, "latency": uniform.latency}
    rows[allocation.kind] = {"size": allocation.size, "bitops": allocation.bitops, "latency": allocation.latency}
    if latency is not None:
        rows["float"]["measured"], rows[allocation.kind]["measured"] = latency.float_measured, latency.measured
    for name, figures in quality(results).items():
        rows.get(name, {}).update(figures)
    return models_table(title, {headings[name]: row for name, row in rows.items()})


def comparison_table(comparison: Comparison) -> Table:
    """Make a table of all models of a comparison; boxes with detectors' names have a column for each detector."""
    models = {"float": comparison.float_row}
    models |= {f"{row.recipe}, {row.budget}, {row.mode}": row for row in comparison.rows}
    rows = {name: asdict(row) for name, row in models.items()}
    title = f"Quality on {comparison.basis}"
    if not comparison.detectors:
        return rows_table(title, rows)
    for figures in rows.values():
        # The means over detectors are in the files.
        figures.update(ap=None, mean_iou=None)
    table = rows_table(title, rows)
    headings = [f"{'AP' if comparison.has_ap else 'IoU'}, {detector}" for detector in comparison.detectors]
    cells = [[_format_detector(found) for found in row.by_detector.values()] for row in models.values()]
    both = [[*first, *others] for first, others in zip(table.rows, cells, strict=True)]
    return Table(title, [*table.columns, *headings], both)


def _format_detector(found: DetectorFigures) -> str:
    return f"{found.mean_iou:.3f}" if found.ap is None else f"{found.ap:.1f}"


def proof(allocation: Allocation) -> list[str]:
    """Describe the gap of an allocation to the optimum; empty for a uniform one."""
    if allocation.objective is None:
        return []
    state = "proven optimal" if allocation.gap == 0 else f"gap {allocation.gap:.2%}"
    return [
        f"Allocation: objective {allocation.value:.6g}, bound {allocation.bound:.6g}, {state}, "
        f"{allocation.seconds:.2f} s"
    ]


def quality(results: Mapping[str, EvaluationResult]) -> dict[str, dict[str, Any]]:
    """Model → figures of its evaluation, by the keys of the tables; a reference agrees with itself entirely."""
    figures = {name: _figures(result) for name, result in results.items()}
    if any(result.fidelity is not None for result in results.values()):
        for one in figures.values():
            one.setdefault("mean_iou", 1.0)
            one.setdefault("kl", 0.0)
    return figures


def _figures(result: EvaluationResult) -> dict[str, Any]:
    scores: dict[str, Any] = {} if result.coco is None else asdict(result.coco)
    scores["truth_iou"] = result.truth_iou
    if result.fidelity is not None:
        scores |= {"mean_iou": result.fidelity.mean_iou, "kl": result.fidelity.kl["bernoulli"]}
    return scores


def search_table(search: Search) -> Table:
    """Make a table of the sizes that a search tried."""
    rows = [
        [
            f"{one.size / 1e6:.2f} MB",
            format_giga(one.bitops),
            f"{one.quality:.4f}",
            "chosen" if one.size == search.size else "enough" if one.quality >= search.target else "",
        ]
        for one in search.tried
    ]
    basis = describe_basis(search.images, search.prompts, search.kind)
    columns = ["size", "GBitOps", HEADINGS[search.metric], ""]
    return Table(f"Size against quality on the {basis} that judged", columns, rows, numbers=columns[:3])
