"""Put measured tables into README.md, docs/experiments.md and other pages, between their markers.

    python -m benchmarks.experiments_page

Reads docs/data/*.json, as the other benchmarks wrote them.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.deployment_tables import agreement, backends, files, loading, speed
from benchmarks.performance_tables import (
    DOCS,
    evaluator,
    forward,
    importance_cost,
    line,
    load,
    processes,
    reconstruction,
    solver,
)
from benchmarks.reliability_tables import fuzzing, kills, server, threads
from mixqsam.plan import Analysis
from mixqsam.reporting.comparison import Comparison, cost_table, quality_table
from mixqsam.reporting.comparison import Row as Model

BUDGETS = ("W6A6", "W5A5", "W4A4", "W3A3")
Row = dict[str, Any]


def describe(row: Row) -> str:
    """Describe the choice of bits."""
    if row["bits"] == "uniform":
        return "uniform"
    coupling = f"{row['synergy']}, λ = {row['lambda']:g}" if row["lambda"] else "λ = 0"
    reading = "the paper's reading, " if row["bits"] == "paper" else ""
    bits = "tied" if row["bits"] == "paper" else row["bits"]
    return f"{reading}{row['utility']}, {row['output']}, {coupling}, {bits}"


def cell(score: Row) -> str:
    """AP, mean IoU to the annotated masks, mean IoU to the float model's."""
    fidelity = score["fidelity"]["mean_iou"]
    return f"{score['coco']['ap']:.1f} / {score['truth_iou']:.3f} / {fidelity:.3f}"


def table(data: Any, keep: Callable[[Row], bool]) -> str:
    """Rows that `keep` selects, with a column for each budget."""
    found: dict[str, dict[str, Row]] = {}
    for row in data["rows"]:
        if keep(row):
            found.setdefault(describe(row), {})[row["budget"]] = row
    header = ["bits chosen by", *BUDGETS, "mean of the last figure"]
    lines = [line(header), line(["---", *["---:"] * (len(BUDGETS) + 1)])]
    lines.append(line(["float", *[cell(data["float"])] * len(BUDGETS), "1.000"]))
    for label, by_budget in found.items():
        average = sum(by_budget[b]["fidelity"]["mean_iou"] for b in BUDGETS) / len(BUDGETS)
        lines.append(line([label, *(cell(by_budget[b]) for b in BUDGETS), f"{average:.3f}"]))
    return "\n".join(lines)


def main_table(data: Any) -> str:
    """The short table: every utility without synergy, the paper's definition, uniform."""
    return table(
        data,
        lambda r: (
            r["bits"] == "uniform" or r["bits"] == "paper" or (r["bits"] in {"tied", "free"} and r["lambda"] == 0)
        ),
    )


def synergy_table(data: Any) -> str:
    """The sweep of λ for both estimators."""
    return table(data, lambda r: r["bits"] == "tied")


def cheap_table(data: Any) -> str:
    """The measured utility with fewer measurements."""
    return table(data, lambda r: "," in r["bits"] or (r["utility"] == "measured" and r["lambda"] == 0))


def wins(data: Any) -> str:
    """For each budget, the number of mixed rows that beat uniform, by each figure."""
    lines = [line(["figure", *BUDGETS]), line(["---", *["---:"] * len(BUDGETS)])]
    figures: dict[str, Callable[[Row], float]] = {
        "AP": lambda r: float(r["coco"]["ap"]),
        "mean IoU to annotated masks": lambda r: float(r["truth_iou"]),
        "mean IoU to float masks": lambda r: float(r["fidelity"]["mean_iou"]),
    }
    for name, figure in figures.items():
        cells = [name]
        for budget in BUDGETS:
            rows = [r for r in data["rows"] if r["budget"] == budget]
            uniform = next(figure(r) for r in rows if r["bits"] == "uniform")
            mixed = [r for r in rows if r["bits"] != "uniform"]
            cells.append(f"{sum(figure(r) > uniform for r in mixed)} of {len(mixed)}")
        lines.append(line(cells))
    return "\n".join(lines)


def parts() -> str:
    """Shares of encoder and decoder in weights, multiply-adds and importance."""
    analysis = Analysis.from_json(load("analysis"), source="docs/data/analysis.json")
    columns = {
        "units": [1.0] * len(analysis.units),
        "weights": [float(unit.parameters) for unit in analysis.units],
        "multiply-adds": [float(analysis.costs.multiply_adds(unit)) for unit in analysis.units],
        **{f"importance, {name}": omega.tolist() for name, omega in analysis.importance.items()},
    }
    lines = [line(["part", *columns]), line(["---", *["---:"] * len(columns)])]
    for part in ("encoder", "decoder"):
        shares = [
            sum(v for v, unit in zip(values, analysis.units, strict=True) if unit.part == part) / sum(values)
            for values in columns.values()
        ]
        lines.append(line([part, *(f"{share:.1%}" for share in shares)]))
    return "\n".join(lines)


def noise() -> str:
    """Bootstrap intervals of differences in AP."""
    data = load("ap_noise")
    lines = [line(["difference in AP", *BUDGETS]), line(["---", *["---:"] * len(BUDGETS)])]
    for pair in ("uniform − float", "mixed − float", "mixed − uniform"):
        rows = [data["rows"][f"{pair}, {budget}"] for budget in BUDGETS]
        lines.append(line([pair, *(f"{r['median']:+.1f} ({r['low']:+.1f} … {r['high']:+.1f})" for r in rows)]))
    return "\n".join([*lines, "", f"({data['draws']} draws)"])


def comparison() -> Comparison:
    """The comparison of recipes, as `mixqsam compare` wrote it."""
    data = load("comparison")
    rows = [Model(**row) for row in data["rows"]]
    known = {key: data[key] for key in ("model", "calibration", "evaluation", "settings")}
    return Comparison(float_row=Model(**data["float_row"]), rows=rows, **known)


def recipes_gain(found: Comparison) -> str:
    """The gain of mixed bits, and their share of the float AP."""
    budgets = list(dict.fromkeys(row.budget for row in found.rows))
    by = {(row.recipe, row.budget, row.mode): row for row in found.rows}
    lines = [line(["recipe", *budgets]), line(["---", *["---:"] * len(budgets)])]
    whole = found.float_row.ap or 1.0
    for recipe in dict.fromkeys(row.recipe for row in found.rows):
        cells = [recipe]
        for budget in budgets:
            uniform, mixed = by[recipe, budget, "uniform"], by[recipe, budget, "mixed"]
            gain = (mixed.ap or 0.0) - (uniform.ap or 0.0)
            cells.append(f"{gain:+.1f} / {mixed.mean_iou - uniform.mean_iou:+.3f} / {(mixed.ap or 0.0) / whole:.1%}")
        lines.append(line(cells))
    return "\n".join(lines)


def brecq_table() -> str:
    """The check of BRECQ's loss."""
    data = load("brecq_check")
    lines = [line(["recipe, bits", "AP / IoU / IoU to float"]), line(["---", "---:"])]
    return "\n".join([*lines, *(line([label, cell(row)]) for label, row in data.items())])


def fill(page: Path, tables: dict[str, str]) -> None:
    """Replace the text between `<!-- table NAME -->` and `<!-- end -->`."""
    text = page.read_text(encoding="utf-8")
    for name, content in tables.items():
        pattern = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        # Backslashes of a table are not those of a pattern.
        text, count = pattern.subn("\\g<1>" + content.replace("\\", "\\\\") + "\n\\g<2>", text)
        if count != 1:
            raise SystemExit(f"{page}: no place for the table {name!r}")
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Fill the pages."""
    data = load("allocation")
    fill(
        DOCS / "experiments.md",
        {
            "recipes": quality_table(comparison()),
            "recipes gain": recipes_gain(comparison()),
            "brecq": brecq_table(),
            "recipes cost": cost_table(comparison()),
            "main": main_table(data),
            "synergy": synergy_table(data),
            "cheap": cheap_table(data),
            "wins": wins(data),
            "noise": noise(),
            "parts": parts(),
        },
    )
    fill(
        DOCS / "performance.md",
        {
            "importance": importance_cost(),
            "solver": solver(),
            "reconstruction": reconstruction(),
            "evaluator": evaluator(),
            "backends": backends(),
            "files": files(),
            "loading": loading(),
        },
    )
    fill(DOCS / "reliability.md", {"kills": kills(), "fuzzing": fuzzing(), "threads": threads(), "server": server()})
    fill(DOCS / "formats/README.md", {"agreement": agreement()})
    fill(DOCS.parent / "README.md", {"speed": speed()})
    fill(DOCS / "scale.md", {"forward": forward(), "processes": processes()})


if __name__ == "__main__":
    main()
