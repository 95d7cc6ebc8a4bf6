"""Tables of docs/performance.md and docs/scale.md, from docs/data/*.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


# Groups of ONNX Runtime's operators, as the table names them.
_OPERATORS = {
    "float products": ("MatMul", "FusedMatMul", "Gemm"),
    "integer products": ("MatMulIntegerToFloat", "QLinearMatMul"),
    "`Conv`": ("Conv", "FusedConv"),
    "`Gelu`": ("Gelu",),
    "`Add`": ("Add",),
    "`Round`, `Transpose` and copies": ("Round", "Transpose", "ReorderOutput", "Slice", "Concat"),
}


def load(name: str) -> Any:
    """One file of measurements."""
    return json.loads((DOCS / "data" / f"{name}.json").read_text(encoding="utf-8"))


def line(cells: Sequence[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def importance_cost() -> str:
    """Cost of importance."""
    data = load("importance_cost")
    lines = [
        line(["model", "units", "distinct ablations", "plain pass", "importance", "in plain passes", "peak memory"])
    ]
    lines.append(line(["---", *["---:"] * 6]))
    for name, one in data.items():
        if name != "machine":
            lines.append(
                line(
                    [
                        name,
                        str(one["units"]),
                        str(one["distinct_ablations"]),
                        f"{one['plain_pass_seconds']:.1f} s",
                        f"{one['importance_seconds']:.0f} s",
                        f"{one['importance_in_plain_passes']:.1f}",
                        f"{one['peak_gigabytes']:.1f} GB",
                    ]
                )
            )
    return "\n".join([*lines, "", machine_line(data)])


def solver() -> str:
    """Time of the allocation."""
    data = load("solver")
    lines = [line(["model and bits", "units", "proven optimal", "median", "longest"])]
    lines.append(line(["---", *["---:"] * 4]))
    for name, one in data["summary"].items():
        lines.append(
            line(
                [
                    name,
                    str(one["units"]),
                    f"{one['proven']} of {one['programs']}",
                    f"{one['median_seconds']:.1f} s",
                    f"{one['largest_seconds']:.1f} s",
                ]
            )
        )
    return "\n".join([*lines, "", machine_line(data)])


def nearest() -> str:
    """Time of calibrating on one image and rounding."""
    data = load("nearest_cost")
    lines = [line(["model", "plain pass", "calibration, an image", "weights", "peak memory"])]
    lines.append(line(["---", *["---:"] * 4]))
    for name, one in data["sizes"].items():
        seconds = [f"{one[key]:.1f} s" for key in ("pass", "calibration", "weights")]
        lines.append(line([name, *seconds, f"{one['peak_gigabytes']:.1f} GB"]))
    return "\n".join([*lines, "", machine_line(data)])


def quantize_cost() -> str:
    """Time of `quantize` from start to report, stage by stage."""
    data = load("quantize_cost")
    runs = sorted(data["runs"].values(), key=lambda one: int(one["images"]))
    lines = [line(["stage", *(f"{one['images']} images" for one in runs)]), line(["---", *["---:"] * len(runs)])]
    stages = [stage for stage, seconds in runs[-1]["seconds"].items() if seconds >= 1]
    lines += [line([stage, *(f"{one['seconds'].get(stage, 0.0):.0f} s" for one in runs)]) for stage in stages]
    lines.append(line(["all", *(f"{one['total']:.0f} s" for one in runs)]))
    lines.append(line(["peak memory", *(f"{one['peak_gigabytes']:.1f} GB" for one in runs)]))
    return "\n".join([*lines, "", machine_line(data)])


def reconstruction() -> str:
    """Time and memory of reconstruction: of steps on blocks, and of whole recipes."""
    data = load("reconstruction_cost")
    tables = []
    for key, title, unit in (
        ("seconds_per_iteration", "block", "time of a step"),
        ("seconds", "recipe", "time"),
    ):
        found = {name: one for name, one in data.items() if key in one}
        rows = [line([name, f"{one[key]:.1f} s", f"{one['peak_gigabytes']:.1f} GB"]) for name, one in found.items()]
        last = next(reversed(found.values()))
        tables += [line([title, unit, "peak memory"]), line(["---", "---:", "---:"]), *rows, "", machine_line(last), ""]
    return "\n".join(tables[:-1])


def evaluator() -> str:
    """Time of COCO's evaluation."""
    one = load("evaluator")
    lines = [line(["evaluator", "images", "masks", "time", "AP"]), line(["---", *["---:"] * 4])]
    for name, seconds, key in (
        ("faster-coco-eval", one["seconds"], "ours"),
        ("pycocotools", one["pycocotools_seconds"], "pycocotools"),
    ):
        row = [name, f"{one['images']:,}", f"{one['masks']:,}", f"{seconds:.1f} s", f"{one['ap'][key]:.6f}"]
        lines.append(line(row))
    return "\n".join([*lines, "", machine_line(one)])


def forward() -> str:
    """Forward times, and the time for COCO val2017."""
    data = load("forward_times")
    columns = ["model", "encoder, an image", "decoder, a box", "COCO val2017, one process"]
    lines = [line(columns), line(["---", *["---:"] * 3])]
    for name, one in data.items():
        if name != "machine":
            cells = [
                f"{one['image_seconds']:.1f} s",
                f"{one['box_seconds'] * 1000:.0f} ms",
                f"{one['coco_hours']:.0f} h",
            ]
            lines.append(line([name, *cells]))
    return "\n".join([*lines, "", machine_line(data)])


def processes() -> str:
    """One process and two."""
    data = load("processes")
    scores = data["scores"]
    figures = next(one for name, one in scores.items() if name != "float")
    lines = [line(["processes", "time", "again, with everything kept"]), line(["---", "---:", "---:"])]
    lines += [line([world, f"{data[world]:.0f} s", f"{data[f'{world}, again']:.0f} s"]) for world in ("1", "2")]
    equal = "equal to the last digit" if data["equal"] else "NOT EQUAL"
    ap = f"AP {figures['coco']['ap']:.10f} in both: all figures {equal}."
    return "\n".join([*lines, "", ap, "", machine_line(data)])


def latency_budget() -> str:
    """Predicted and measured latency of the models of some budgets; for many models, without those in the middle."""
    data = load("latency_budget")
    step = 1 if len(data["models"]) == 1 else 2
    columns = ["model, budget", "predicted", "measured", "predicted, of float", "measured, of float"]
    lines = [line(columns), line(["---", *["---:"] * 4])]
    for name, backends in data["models"].items():
        for one in backends.values():
            # The first row is the float model's.
            for row in one["rows"][1::step]:
                seconds = [f"{row[key] * 1e3:,.1f} ms" for key in ("predicted", "measured")]
                shares = [f"{row[key]:.3f}" for key in ("predicted_share", "measured_share")]
                lines.append(line([f"{name}, `{row['budget']}`", *seconds, *shares]))
    return "\n".join([*lines, "", machine_line(data)])


def everything() -> str:
    """Batches of points on every backend."""
    data = load("everything")
    width, height = next(iter(data["models"].values()))["image"]
    columns = [f"W8A8, image of {width} × {height}", "64 points", "points a second", "speed", "image"]
    lines = [line(columns), line(["---", *["---:"] * 4])]
    for name, one in data["models"].items():
        base = one["rows"][0]["everything"]["points_per_second"]
        for row in one["rows"]:
            timed = row["everything"]
            rate = timed["points_per_second"]
            batch = f"{timed['batch'] * 1e3:,.0f} ms"
            cells = [batch, f"{rate:.0f}", f"{rate / base:.2f}×", f"{timed['image']:.1f} s"]
            lines.append(line([f"{name}, {row['name']}", *cells]))
    return "\n".join([*lines, "", machine_line(data)])


def openvino_profile() -> str:
    """Where the time goes in OpenVINO: its own bf16 and ours."""
    data = load("openvino_profile")
    encoders = data["encoders"]
    groups = sorted(
        {group for one in encoders.values() for group in one["milliseconds"]},
        key=lambda group: -max(one["milliseconds"].get(group, 0) for one in encoders.values()),
    )
    lines = [line(["one image of SAM-B", *encoders]), line(["---", *["---:"] * len(encoders)])]
    for group in groups:
        cells = []
        for one in encoders.values():
            kernels = one["kernels"].get(group, {})
            most = max(kernels, key=lambda kernel: kernels[kernel], default="")
            share = one["milliseconds"].get(group, 0) / sum(one["milliseconds"].values())
            cells.append(f"{share:.0%} (`{most}`)" if most else "–")
        lines.append(line([group, *cells]))
    lines.append(line(["processor time of all", *(f"{one['seconds']:.2f} s" for one in encoders.values())]))
    return "\n".join([*lines, "", machine_line(data)])


def torch_profile() -> str:
    """Where the time goes in PyTorch: its own float encoder and ours."""
    data = load("torch_profile")
    times = data["milliseconds"]
    most = {group: max(one.get(group, 0) for one in times.values()) for one in times.values() for group in one}
    lines = [line(["two blocks of SAM-B", *times]), line(["---", *["---:"] * len(times)])]
    lines += [
        line([group, *(f"{one[group] / 1000:.2f} s" if group in one else "–" for one in times.values())])
        for group in sorted(most, key=lambda group: -most[group])
    ]
    return "\n".join([*lines, "", machine_line(data)])


def half_units() -> str:
    """A linear layer in the types of each runtime."""
    data = load("half_units")
    lines = [line(["runtime", "float32", "bfloat16", "float16"]), line(["---", *["---:"] * 3])]
    kinds = ("float32", "bfloat16", "float16")
    for runtime in ("PyTorch", "ONNX Runtime", "OpenVINO"):
        found = [data["seconds"].get(f"{runtime}, {kind}") for kind in kinds]
        cells = ["–" if seconds is None else f"{seconds / found[0]:.2f}" for seconds in found]
        lines.append(line([runtime, *cells]))
    return "\n".join([*lines, "", machine_line(data)])


def mobile_profile() -> str:
    """Where MobileSAM's time goes in PyTorch and ONNX Runtime."""
    data = load("mobile_profile")
    found = data["encoders"]
    groups = sorted(
        {group for one in found.values() for group in one["milliseconds"]},
        key=lambda group: -max(one["milliseconds"].get(group, 0) for one in found.values()),
    )
    lines = [line(["one image of MobileSAM", *found]), line(["---", *["---:"] * len(found)])]
    sums = {title: sum(one["milliseconds"].values()) for title, one in found.items()}
    for group in groups:
        shares = (one["milliseconds"].get(group, 0) / sums[title] for title, one in found.items())
        lines.append(line([group, *(f"{share:.0%}" if share else "–" for share in shares)]))
    floats = {title.split(",")[0]: one["seconds"] for title, one in found.items() if title.endswith(", float")}
    speeds = (floats[title.split(",")[0]] / one["seconds"] for title, one in found.items())
    lines.append(line(["speed against float", *(f"{speed:.2f}×" for speed in speeds)]))
    return "\n".join([*lines, "", machine_line(data)])


def mobile_threads() -> str:
    """Groups of ONNX Runtime's operators with one and with two threads."""
    found = load("mobile_profile")["operators"]
    columns = [found[label][count] for label in ("float", "W8A8") for count in ("1", "2")]
    titles = [f"{label}, {count}" for label in ("float", "W8A8") for count in ("1 thread", "2 threads")]
    lines = [line(["milliseconds", *titles]), line(["---", *["---:"] * len(columns)])]
    named = {kind for kinds in _OPERATORS.values() for kind in kinds}
    for title, kinds in _OPERATORS.items():
        sums = [sum(one.get(kind, 0) for kind in kinds) for one in columns]
        lines.append(line([title, *(f"{one:.0f}" if one else "–" for one in sums)]))
    rest = [sum(value for kind, value in one.items() if kind not in named) for one in columns]
    lines.append(line(["all others", *(f"{one:.0f}" for one in rest)]))
    lines.append(line(["all", *(f"{sum(one.values()):.0f}" for one in columns)]))
    return "\n".join(lines)


def busy() -> str:
    """SAM-B's encoder beside busy processes, by how long threads spin while they wait."""
    data = load("busy")
    titles = {"default": "spinning", "short": "sleeping soon"}
    found = {(row["busy"], row["policy"]): next(iter(row["seconds"].values())) for row in data["rows"]}
    lines = [line(["busy processes", *titles.values()]), line(["---:", *["---:"] * len(titles)])]
    counts = dict.fromkeys(count for count, _ in found)
    lines += [line([str(count), *(f"{found[count, policy]:.1f} s" for policy in titles)]) for count in counts]
    return "\n".join([*lines, "", machine_line(data)])


def machine_line(data: Any) -> str:
    """Description of the machine."""
    one = data["machine"]
    return f"({one['cpu']}, {one['threads']} {'thread' if one['threads'] == 1 else 'threads'}, torch {one['torch']})"
