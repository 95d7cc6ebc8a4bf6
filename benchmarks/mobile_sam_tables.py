"""Tables and a figure of docs/mobile-sam.md, from the files of benchmarks.mixed_bits and peers_mobile_sam."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.harness import interval
from benchmarks.performance_tables import line, load
from mixqsam.options.names import DEFAULT_RECIPE

_REPORTED = ("W8A8", "W6A6", "W4A4", "W3A3", "5.5MB", "4.5MB")
_TOOLS = ("ort", "ort-channels", "quanto", "nncf", "nncf-mixed", "nncf-transformer", "ours W8A8", "ours W6A6")
# Panel of the figure → the runtimes of its encoders; the first one's float encoder is the measure of speed.
_PANELS = {"ONNX Runtime": ("onnx",), "OpenVINO": ("openvino", "bf16")}


def _iou(values: list[float]) -> str:
    middle, low, high = values
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


def reported() -> str:
    """Uniform bits by two recipes, and mixed bits by the default one, on the reported images."""
    found = load("mixed_bits")["models"]["mobile-sam 50"]
    cells, exact = found["cells"], interval(found["float"]["truth_ious"])[0]
    header = ["budget", "uniform, to nearest", f"uniform, {DEFAULT_RECIPE}", "mixed", "file", "of the truth", "AP"]
    lines = [line(header), line(["---", *["---:"] * (len(header) - 1)])]
    for budget in _REPORTED:
        mixed = cells[f"{budget}, mixed, {DEFAULT_RECIPE}"]
        others = [cells.get(f"{budget}, uniform, {recipe}") for recipe in ("omse", DEFAULT_RECIPE)]
        texts = ["–" if cell is None else f"{interval(cell['ious'])[0]:.3f}" for cell in others]
        share = interval(mixed["truth_ious"])[0] / exact
        about = [f"{mixed['size'] / 1e6:.1f} MB", f"{share:.1%}", f"{mixed['ap']:.1f}"]
        lines.append(line([budget, *texts, _iou(interval(mixed["ious"])), *about]))
    return "\n".join(lines)


def tried() -> str:
    """IoU with float of all that was tried on the images that choose."""
    cells = load("mixed_bits")["models"]["mobile-sam 0"]["cells"]
    budgets = [budget for budget in _REPORTED if any(cell["budget"] == budget for cell in cells.values())]
    lines = [line(["", *budgets]), line(["---", *["---:"] * len(budgets)])]
    rows = dict.fromkeys((cell["form"], cell["recipe"]) for cell in cells.values())
    for form, recipe in rows:
        found = [cells.get(f"{budget}, {form}, {recipe}") for budget in budgets]
        texts = ["–" if cell is None else f"{interval(cell['ious'])[0]:.3f}" for cell in found]
        lines.append(line([form if recipe == "omse" else f"{form}, {recipe}", *texts]))
    return "\n".join(lines)


def tools() -> str:
    """Other tools and ours on the image encoder."""
    rows = load("peers_mobile_sam")["rows"]
    lines = [line(["tool", "encoder's file", "IoU with float", "AP", "ONNX Runtime", "OpenVINO"])]
    lines.append(line(["---", *["---:"] * 5]))
    for row in (rows[key] for key in _TOOLS if "iou_float" in rows.get(key, {})):
        size = f"{next(iter(row['bytes'].values())) / 1e6:.1f} MB"
        speeds = [_speed(rows["float"], row, runtime) for runtime in ("onnx", "openvino")]
        lines.append(line([row["title"], size, _iou(row["iou_float"]), f"{row['ap'][0]:.1f}", *speeds]))
    return "\n".join(lines)


def _speed(plain: Mapping[str, Any], row: Mapping[str, Any], runtime: str) -> str:
    """How many times as fast as the float encoder in the same runtime."""
    times = row.get("latency", {}).get(runtime)
    return f"{np.median(plain['latency'][runtime]) / np.median(times):.2f}×" if times else "–"


def draw_latency(path: Path) -> None:
    """Draw the IoU with float against the encoder's speed: other tools and ours, a panel for each runtime."""
    rows = load("peers_mobile_sam")["rows"]
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    handles: dict[str, Any] = {}
    for axes, (title, runtimes) in zip(figure.subplots(1, 2, sharey=True), _PANELS.items(), strict=True):
        slowest = np.median(rows["float"]["latency"][runtimes[0]])
        for index, row in enumerate(rows.values()):
            for runtime in runtimes:
                if times := row.get("latency", {}).get(runtime):
                    is_ours = row["title"].startswith("mixqsam")
                    # What OpenVINO computes in bf16 is hollow.
                    fill = "none" if runtime == "bf16" else "full"
                    label = row["title"] + (" in bf16" if is_ours and runtime == "bf16" else "")
                    place = float(slowest / np.median(times)), float(row["iou_float"][0])
                    marker = {"marker": "D" if is_ours else "o", "color": f"C{index}", "fillstyle": fill}
                    (handles[label],) = axes.plot(*place, linestyle="", label=label, **marker)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("times as fast as the float encoder")
        axes.grid(alpha=0.3)
        axes.margins(x=0.1)
    figure.axes[0].set_ylabel("mean IoU with the float masks")
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=3, fontsize=8)
    # The same data give the same file.
    with rc_context({"svg.hashsalt": "mixqsam"}):
        figure.savefig(path, metadata={"Date": None})
