"""Put measured tables into docs/experiments.md and other pages, and full tables into docs/data/*.csv.

    python -m benchmarks.experiments_page

Reads docs/data/*.json, as the other benchmarks wrote them. Pages hold tables of at most 8 rows between markers.
"""

import re
from pathlib import Path

from benchmarks.csv_tables import write_tables
from benchmarks.deployment_tables import agreement, backends, files, loading, speed
from benchmarks.fisher_stopping import convergence
from benchmarks.mixed_tables import BUDGETS, LEARNED, PLAIN, draw_sizes, paper_claim, recipes, rules, ways
from benchmarks.mobile_sam_tables import draw_latency, reported, tools, tried
from benchmarks.performance_tables import (
    DOCS,
    busy,
    evaluator,
    everything,
    forward,
    half_units,
    importance_cost,
    latency_budget,
    load,
    mobile_profile,
    mobile_threads,
    nearest,
    openvino_profile,
    processes,
    quantize_cost,
    reconstruction,
    solver,
    torch_profile,
)
from benchmarks.reliability_tables import fuzzing, kills, server, threads
from benchmarks.web import table as visits

# The three models of the experiments.
_MODELS = {"sam-tiny": "sam-tiny 50", "its hard twin": "sam-tiny-hard 50", "MobileSAM": "mobile-sam 50, 8 images"}


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
    draw_sizes("sam-tiny 50", DOCS / "images/sizes.svg")
    draw_latency(DOCS / "images/latency.svg")
    fill(
        DOCS / "experiments.md",
        {
            "rules": rules("sam-tiny 50", BUDGETS),
            "ways": ways("sam-tiny 50", recipe="omse"),
            "plain": recipes("sam-tiny 50", PLAIN, ("W6A6", "W4A4", "W3A3")),
            "learned": recipes("sam-tiny 50", LEARNED, ("W4A4",)),
        },
    )
    fill(
        DOCS / "performance.md",
        {
            "importance": importance_cost(),
            "solver": solver(),
            "fisher_stopping": convergence(load("fisher_stopping")),
            "nearest": nearest(),
            "quantize_cost": quantize_cost(),
            "reconstruction": reconstruction(),
            "evaluator": evaluator(),
            "backends": backends(),
            "openvino_profile": openvino_profile(),
            "half_units": half_units(),
            "mobile_profile": mobile_profile(),
            "mobile_threads": mobile_threads(),
            "torch_profile": torch_profile(),
            "busy": busy(),
            "speed": speed(),
            "everything": everything(),
            "files": files(),
            "loading": loading(),
            "latency_budget": latency_budget(),
        },
    )
    fill(DOCS / "reliability.md", {"kills": kills(), "fuzzing": fuzzing(), "threads": threads(), "server": server()})
    fill(DOCS / "formats/README.md", {"agreement": agreement()})
    mobile_rules = rules("mobile-sam 50", ("W6A6", "W4A4"))
    fill(
        DOCS / "mobile-sam.md",
        {"reported": reported(), "mobile_rules": mobile_rules, "tried": tried(), "tools": tools()},
    )
    fill(DOCS / "reproduce.md", {"paper_claim": paper_claim(_MODELS, ("W6A6", "W4A4"))})
    fill(DOCS / "web.md", {"web": visits(load("web")), "web_sam_b": visits(load("web_sam_b"))})
    fill(DOCS / "scale.md", {"forward": forward(), "processes": processes()})


if __name__ == "__main__":
    main()
