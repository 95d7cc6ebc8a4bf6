"""Put measured tables into docs/experiments.md and other pages, and full tables into docs/data/*.csv.

    python -m benchmarks.experiments_page

Reads docs/data/*.json, as the other benchmarks wrote them. Pages hold tables of at most 8 rows between markers.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.allocation_tables import BUDGETS, Row, cheap_table, main_table, synergy_table
from benchmarks.csv_tables import write_markdown, write_tables
from benchmarks.deployment_tables import agreement, backends, files, loading, speed
from benchmarks.fisher_stopping import convergence
from benchmarks.mixed_tables import rules
from benchmarks.mobile_sam_tables import reported, tools, tried
from benchmarks.performance_tables import (
    DOCS,
    evaluator,
    forward,
    importance_cost,
    latency_budget,
    line,
    load,
    processes,
    reconstruction,
    solver,
)
from benchmarks.recipe_tables import brecq_table, comparison, recipes_cost, recipes_table
from benchmarks.reliability_tables import fuzzing, kills, server, threads
from benchmarks.web import table as visits
from mixqsam.plan import Analysis

if TYPE_CHECKING:
    from collections.abc import Callable


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
    write_tables()
    data, models = load("allocation"), comparison()
    fill(
        DOCS / "experiments.md",
        {
            "recipes nearest": recipes_table(models, learned=False),
            "recipes learned": recipes_table(models, learned=True),
            "rules": rules("sam-tiny 50", ("W8A8", "W6A6", "W4A4", "W3A3")),
        },
    )
    # A page shows at most four tables; the others are downloads.
    for name, table in {
        "brecq": brecq_table(),
        "ways": main_table(data),
        "recipes_cost": recipes_cost(models),
        "synergy": synergy_table(data),
        "measuring_less": cheap_table(data),
        "wins": wins(data),
        "ap_noise": noise(),
        "parts": parts(),
    }.items():
        write_markdown(name, table)
    fill(
        DOCS / "performance.md",
        {
            "importance": importance_cost(),
            "solver": solver(),
            "fisher_stopping": convergence(load("fisher_stopping")),
            "reconstruction": reconstruction(),
            "evaluator": evaluator(),
            "backends": backends(),
            "speed": speed(),
            "files": files(),
            "loading": loading(),
            "latency_budget": latency_budget(),
        },
    )
    fill(DOCS / "reliability.md", {"kills": kills(), "fuzzing": fuzzing(), "threads": threads(), "server": server()})
    fill(DOCS / "formats/README.md", {"agreement": agreement()})
    fill(DOCS / "mobile-sam.md", {"reported": reported(), "tried": tried(), "tools": tools()})
    fill(DOCS / "web.md", {"web": visits(load("web"))})
    fill(DOCS / "scale.md", {"forward": forward(), "processes": processes()})


if __name__ == "__main__":
    main()
