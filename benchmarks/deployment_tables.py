"""Tables of speed, size and agreement of deployed models, from docs/data/*.json."""

from benchmarks.performance_tables import line, load, machine_line

# The rows that pages show; docs/data/*.csv have all of them.
ENCODERS = (
    "PyTorch float32",
    "mixqsam W8A8, PyTorch",
    "mixqsam W8A8, ONNX Runtime",
    "mixqsam W8A8, OpenVINO",
    "OpenVINO bf16",
    "ONNX Runtime static int8",
    "NNCF int8, OpenVINO",
    "torchao int8 dynamic",
)
FILES = ("SAM-B W2A2", "SAM-B W4A4", "SAM-B W6A6", "SAM-B W8A8", "SAM-B mixture 1", "SAM-L W4A4", "SAM-H W4A4")


def backends() -> str:
    """Encoders of mixqsam and others."""
    speed, fidelity = load("backends"), load("backends_fidelity")
    columns = ["encoder", "SAM-B, 1024 pixels", "against float32", "IoU to float, sam-tiny W8A8"]
    lines = [line(columns), line(["---", *["---:"] * 3])]
    base = speed["seconds"]["PyTorch float32"]
    for name in ENCODERS:
        seconds = speed["seconds"][name]
        cells = [f"{seconds:.2f} s", f"{base / seconds:.2f}×", f"{fidelity['mean_iou'][name]:.3f}"]
        lines.append(line([name, *cells]))
    return "\n".join([*lines, "", machine_line(speed)])


def agreement() -> str:
    """Agreement of the runtimes."""
    data = load("agreement")
    columns = [f"{budget}: IoU to {reference}" for budget in ("W4A4", "W8A8") for reference in ("ours", "float")]
    lines = [line(["runtime", *columns]), line(["---", *["---:"] * 4])]
    for name in data["W4A4"]:
        cells = [f"{data[bits][name][key]['mean']:.3f}" for bits in ("W4A4", "W8A8") for key in ("to ours", "to float")]
        lines.append(line([name, *cells]))
    return "\n".join(lines)


def files() -> str:
    """Sizes of files and their theoretical sizes."""
    data = load("files")
    lines = [line(["model", "file", "theory", "header", "file / theory"]), line(["---", *["---:"] * 4])]
    for name in FILES:
        one = data["files"][name]
        sizes = [f"{one[key] / 1e6:.2f} MB" for key in ("bytes", "theory", "header")]
        lines.append(line([name, *sizes, f"{one['bytes'] / one['theory']:.4f}"]))
    return "\n".join(lines)


def loading() -> str:
    """Time and memory of `from_pretrained`."""
    data = load("files")
    lines = [line(["W4A4", "time", "peak memory of the process"]), line(["---", "---:", "---:"])]
    for name, one in data["loading"].items():
        lines.append(line([name, f"{one['seconds']:.1f} s", f"{one['peak_gigabytes']:.2f} GB"]))
    return "\n".join([*lines, "", machine_line(data)])


def speed() -> str:
    """SAM-B on every backend."""
    data = load("benchmark")
    columns = ["SAM-B, 1024 × 768 pixels, W4A4", "image", "speed", "box", "memory", "files"]
    lines = [line(columns), line(["---", *["---:"] * 5])]
    for row in data["rows"]:
        cells = [
            f"{row['encoder']:.2f} s",
            f"{row['speedup']:.1f}×",
            f"{row['decoder'] * 1000:.0f} ms",
            f"{row['memory'] / 1e9:.2f} GB",
            f"{row['file_bytes'] / 1e6:.0f} MB",
        ]
        lines.append(line([row["name"], *cells]))
    return "\n".join([*lines, "", "(`mixqsam benchmark`, random weights, 2 cores of an Intel Xeon with AMX)"])
