"""Tables and the figure of docs/experiments.md, from docs/data/mixed_bits.json."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.harness import interval
from benchmarks.mixed_cells import RULES
from benchmarks.performance_tables import line, load
from mixqsam.options.names import DEFAULT_RECIPE

Cells = Mapping[str, Mapping[str, Any]]

BUDGETS = ("W8A8", "W6A6", "W4A4", "W3A3")
PLAIN = ("minmax", "percentile", "omse", "ptq4sam-s", "compensated", "folded")
LEARNED = ("adaround", "brecq", "qdrop", "ptq4sam-l", "ahcptq", "saq-sam")
# Ways to choose bits, as the page names them.
WAYS = {
    "uniform": "uniform",
    "paper": "the paper's (`--preset mix-qsam`)",
    "paper, λ 0": "the paper's, λ = 0",
    "linear": "`linear`, free",
    "exponential": "`exponential`, free",
    "mixed, tied": "`fisher`, tied",
    "mixed": "`fisher`, free (the default)",
}


def cells_of(key: str) -> Cells:
    """The cells of a model and its images.

    Args:
        key: the model, and the number of images before the first, as in docs/data/mixed_bits.json.
    """
    cells: Cells = load("mixed_bits")["models"][key]["cells"]
    return cells


def write_iou(cell: Mapping[str, Any]) -> str:
    """The mean IoU with the float masks and its 95% interval."""
    middle, low, high = interval(cell["ious"])
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


def rules(key: str, budgets: Sequence[str]) -> str:
    """Mixed bits against simple rules, all by the default recipe: IoU with float, and file.

    Args:
        key: as for `cells_of`.
        budgets: columns.
    """
    cells = cells_of(key)
    lines = [line(["", *budgets]), line(["---", *["---:"] * len(budgets)])]
    for form in RULES:
        found = [cells.get(f"{budget}, {form}, {DEFAULT_RECIPE}") for budget in budgets]
        if any(found):
            lines.append(line([form, *("–" if cell is None else _write_cell(cell) for cell in found)]))
    return "\n".join(lines)


def _write_cell(cell: Mapping[str, Any]) -> str:
    return f"{write_iou(cell)}, {cell['size'] / 1e6:.1f}\N{NO-BREAK SPACE}MB"


def recipes(key: str, names: Sequence[str], budgets: Sequence[str]) -> str:
    """Recipes that were measured, with uniform and with mixed bits: mean IoU with float."""
    cells, columns = cells_of(key), [(budget, form) for budget in budgets for form in ("uniform", "mixed")]
    header = ["recipe", *(f"{budget} {form}" for budget, form in columns)]
    known = [name for name in names if any(cell["recipe"] == name for cell in cells.values())]
    rows = [[f"`{name}`", *(_mean(cells.get(f"{b}, {form}, {name}")) for b, form in columns)] for name in known]
    return "\n".join(map(line, [header, ["---", *["---:"] * len(columns)], *rows]))


def paper_claim(models: Mapping[str, str], budgets: Sequence[str]) -> str:
    """The paper's configuration against uniform bits, both rounded to nearest: mean IoU with float and its interval.

    Args:
        models: title → key as for `cells_of`.
        budgets: a pair of columns each.
    """
    columns = [(budget, form) for budget in budgets for form in ("uniform", "paper")]
    header = ["model", *(f"{budget} {form}" for budget, form in columns)]
    rows = []
    for title, key in models.items():
        found = [cells_of(key).get(f"{budget}, {form}, omse") for budget, form in columns]
        rows.append([title, *("–" if cell is None else write_iou(cell) for cell in found)])
    return "\n".join(map(line, [header, ["---", *["---:"] * len(columns)], *rows]))


def ways(key: str, *, recipe: str) -> str:
    """Ways to choose bits: mean IoU with float and its interval."""
    cells = cells_of(key)
    lines = [line(["bits", *BUDGETS]), line(["---", *["---:"] * len(BUDGETS)])]
    for form, title in WAYS.items():
        found = [cells.get(f"{budget}, {form}, {recipe}") for budget in BUDGETS]
        lines.append(line([title, *("–" if cell is None else write_iou(cell) for cell in found)]))
    return "\n".join(lines)


def csv_rows() -> Iterator[dict[str, object]]:
    """Every cell of every model, for docs/data/mixed_bits.csv."""
    for key, found in load("mixed_bits")["models"].items():
        exact = interval(found["float"]["truth_ious"])[0]
        for cell in found["cells"].values():
            middle, low, high = interval(cell["ious"])
            yield {
                "model": key.split()[0],
                "first_image": found["first"] + 1,
                "images": found["images"],
                "calibration": found["calibration"],
                **{name: cell[name] for name in ("budget", "form", "recipe")},
                "iou": f"{middle:.4f}",
                "iou_low": f"{low:.4f}",
                "iou_high": f"{high:.4f}",
                "share_of_truth": f"{interval(cell['truth_ious'])[0] / exact:.4f}",
                "ap": f"{cell['ap']:.2f}",
                **{name: round(cell[name]) for name in ("size", "bitops", "seconds")},
            }


def _mean(cell: Mapping[str, Any] | None) -> str:
    return "–" if cell is None else f"{interval(cell['ious'])[0]:.3f}"


def draw_sizes(key: str, path: Path) -> None:
    """Draw the IoU with float against the file: simple rules and mixed bits by the default recipe."""
    cells = cells_of(key)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for form in RULES:
        found = [cells[name] for budget in BUDGETS if (name := f"{budget}, {form}, {DEFAULT_RECIPE}") in cells]
        sizes, ious = [cell["size"] / 1e6 for cell in found], [interval(cell["ious"]) for cell in found]
        bars = [[middle - low for middle, low, _ in ious], [high - middle for middle, _, high in ious]]
        style = {"linewidth": 2.5, "zorder": 3} if form == "mixed" else {"linestyle": "--"}
        axes.errorbar(sizes, [middle for middle, _, _ in ious], yerr=bars, marker="o", label=form, **style)
    axes.set_xlabel("file, MB")
    axes.set_ylabel("mean IoU with the float masks")
    axes.grid(alpha=0.3)
    axes.legend()
    # The same data give the same file.
    with rc_context({"svg.hashsalt": "mixqsam"}):
        figure.savefig(path, metadata={"Date": None})
