"""How long MobileSAM's image encoder takes in each runtime, float and W8A8, and on which operators.

    python -m benchmarks.mobile_sam_latency --coco COCO_FOLDER --output docs/data/mobile_sam_latency.json

Encoders take turns; a second run adds its rounds to those of the first. `--profile` writes where the time goes in ONNX
Runtime and in OpenVINO. About 3 minutes on 2 cores, and once 5 minutes for calibration.
"""

import argparse
import collections
import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import mobile_encoders as encoders
from benchmarks.encoders import Array, Encoder, onnx_encoder, openvino_encoder, torch_encoder
from benchmarks.harness import machine
from benchmarks.performance_tables import line
from mixqsam.artifact.store import load_model
from mixqsam.cli.bars import ProgressBars
from mixqsam.deployed.backends import ONNX, OPENVINO
from mixqsam.deployed.names import ENCODER
from mixqsam.files import read_json, write_json

_FIRST = "PyTorch float32"


def make(coco: Path, folder: Path, *, count: int, recipe: str) -> dict[str, Path]:
    """Files of all encoders by name, and ours as a directory for PyTorch."""
    sam = encoders.load_model()
    ours = encoders.quantized_directory(
        coco, folder, budget="uniform:W8A8", count=count, recipe=recipe, progress=ProgressBars()
    )
    found = {"float, convolutions": encoders.float_graph(sam, folder), "W8A8, PyTorch": ours}
    for backend in (ONNX, OPENVINO):
        directory = encoders.float_directory(sam, folder, backend)
        found[f"float, {backend.title}"] = backend.file(directory, ENCODER)
        found[f"W8A8, {backend.title}"] = backend.file(encoders.exported(ours, backend), ENCODER)
    return found


def running(files: Mapping[str, Path]) -> dict[str, Encoder]:
    """Encoders that are ready to run."""
    found = {
        _FIRST: torch_encoder(encoders.load_model().model),
        "mixqsam W8A8, PyTorch": torch_encoder(load_model(files["W8A8, PyTorch"], integer=True)[0].model),
        "ONNX Runtime float32": onnx_encoder(files["float, ONNX Runtime"]),
        "ONNX Runtime float32, channels first": onnx_encoder(files["float, convolutions"]),
        "mixqsam W8A8, ONNX Runtime": onnx_encoder(files["W8A8, ONNX Runtime"]),
    }
    for kind, label in (("float", "OpenVINO"), ("W8A8", "mixqsam W8A8, OpenVINO")):
        for precision, ending in (("f32", "float32"), ("bf16", "bf16")):
            found[f"{label} {ending}"] = openvino_encoder(str(files[f"{kind}, OpenVINO"]), precision=precision)
    return found


def profile_onnx(path: Path, frame: Array, *, runs: int = 5, threads: int = 0) -> dict[str, dict[str, float]]:
    """Kind of operator → how many there are, and their least milliseconds; with PyTorch's threads, or with others."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = threads or torch.get_num_threads(), True
    options.profile_file_prefix = str(path.with_suffix(".profile"))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(runs):
        session.run(None, {"x": frame})
    written = Path(session.end_profiling())
    least: dict[tuple[str, str], float] = {}
    for event in json.loads(written.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["args"]["op_name"], event["name"])
            least[key] = min(least.get(key, np.inf), event["dur"] / 1000)
    written.unlink()
    return _summed(least)


def profile_openvino(path: Path, frame: Array, *, runs: int = 5) -> dict[str, dict[str, float]]:
    """The same in OpenVINO; kinds are named with their kernel."""
    import openvino  # noqa: PLC0415

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERF_COUNT": True}
    settings |= {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    least: dict[tuple[str, str], float] = {}
    for _ in range(runs):
        request.infer({"x": frame})
        for node in request.profiling_info:
            milliseconds = node.real_time.total_seconds() * 1000
            if milliseconds:
                key = (f"{node.node_type} {node.exec_type}", node.node_name)
                least[key] = min(least.get(key, np.inf), milliseconds)
    return _summed(least)


def _summed(least: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = collections.defaultdict(lambda: {"count": 0, "milliseconds": 0.0})
    for (kind, _), milliseconds in least.items():
        found[kind]["count"] += 1
        found[kind]["milliseconds"] += milliseconds
    ordered = sorted(found.items(), key=lambda item: -item[1]["milliseconds"])
    return {kind: {name: round(value, 1) for name, value in one.items()} for kind, one in ordered}


def table(content: Mapping[str, Any]) -> str:
    """Medians as Markdown."""
    medians = {name: float(np.median(times)) for name, times in content["seconds"].items()}
    lines = [line(["encoder", "frame of 1024 pixels", "against PyTorch"]), line(["---", "---:", "---:"])]
    for name, seconds in medians.items():
        lines.append(line([name, f"{seconds * 1000:.0f} ms", f"{medians[_FIRST] / seconds:.2f}×"]))
    return "\n".join(lines)


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("out/peers-mobile-sam"))
    parser.add_argument("--output", type=Path, default=Path("docs/data/mobile_sam_latency.json"))
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--recipe", default="omse")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--again", action="store_true", help="forget the rounds of earlier runs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    files = make(arguments.coco, folder, count=arguments.calibration, recipe=arguments.recipe)
    known = read_json(arguments.output, what="results") if arguments.output.exists() else {}
    content: dict[str, Any] = {"seconds": {}, **({} if arguments.again else known), "machine": machine()}
    frame = np.random.default_rng(0).standard_normal((1, 3, 1024, 1024)).astype(np.float32)
    if arguments.profile:
        profiles: dict[str, Any] = content.setdefault("profile", {})
        for name, action in {
            "ONNX Runtime float32": partial(profile_onnx, files["float, ONNX Runtime"]),
            "mixqsam W8A8, ONNX Runtime": partial(profile_onnx, files["W8A8, ONNX Runtime"]),
            "OpenVINO float32": partial(profile_openvino, files["float, OpenVINO"]),
            "mixqsam W8A8, OpenVINO float32": partial(profile_openvino, files["W8A8, OpenVINO"]),
        }.items():
            profiles[name] = action(frame)
        write_json(arguments.output, content)
    actions = running(files) if arguments.rounds else {}
    for run in actions.values():
        run(frame)
    for _ in range(arguments.rounds):
        for name, run in actions.items():
            started = time.perf_counter()
            run(frame)
            content["seconds"].setdefault(name, []).append(round(time.perf_counter() - started, 5))
        write_json(arguments.output, content)
    print(table(content))


if __name__ == "__main__":
    main()
