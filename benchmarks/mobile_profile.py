"""Where the time of MobileSAM's image encoder goes in PyTorch and in ONNX Runtime, float and uniform W8A8.

    python -m benchmarks.mobile_profile --output docs/data/mobile_profile.json

Encoders take turns in one process. The milliseconds of a group are sums over operators, each the shortest of several
profiled runs. Seconds are medians of other runs, without a profiler. `--directory` profiles a quantized directory, too.
ONNX Runtime's operators are also profiled with one and with two threads; `--operators` measures these alone. About 3
minutes.
"""

import argparse
import collections
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import SamModel

from benchmarks import mobile_encoders as encoders
from benchmarks.encoders import Array, Encoder, onnx_encoder, quantized, torch_encoder
from benchmarks.harness import machine
from benchmarks.importance_cost import photograph
from benchmarks.mobile_sam_latency import profile_onnx
from mixqsam.artifact.store import load_model
from mixqsam.deployed.backends import ONNX
from mixqsam.deployed.names import ENCODER
from mixqsam.exporting.files import ExportOptions, encoder_model, save_onnx
from mixqsam.files import read_json, write_json
from mixqsam.heap import keep_freed_memory
from mixqsam.sam.forward import make_frame

Milliseconds = Mapping[str, float]
Profiler = Callable[[Array], Milliseconds]

# Profiled with one and with two threads. Any exporter writes a float graph whose channels come first.
_THREADED = ("float, channels first", "float", "W8A8")
# What operators of both runtimes do, for people.
_INTEGER, _FLOAT, _CONVOLUTIONS = "integer products", "float products", "convolutions in float"
_GELU, _NORMS, _COPIES = "GELU", "softmax, normalisation", "copies, transpositions, windows"
_REST = "sums, scales, quantizers"
_GROUPS = {
    **dict.fromkeys(("onednn::qlinear_pointwise", "MatMulIntegerToFloat", "QLinearMatMul"), _INTEGER),
    **dict.fromkeys(("aten::addmm", "aten::mm", "aten::bmm", "MatMul", "FusedMatMul", "Gemm"), _FLOAT),
    **dict.fromkeys(("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "Conv", "FusedConv"), _CONVOLUTIONS),
    **dict.fromkeys(("aten::gelu", "Gelu", "BiasGelu"), _GELU),
    **dict.fromkeys(("aten::_softmax", "aten::native_layer_norm", "Softmax", "LayerNormalization"), _NORMS),
    **dict.fromkeys(("aten::copy_", "aten::cat", "aten::index", "aten::fill_", "Transpose", "Concat"), _COPIES),
    **dict.fromkeys(("ReorderInput", "ReorderOutput", "Slice", "Pad", "Reshape"), _COPIES),
}


def profile_torch(model: SamModel, frame: Array, *, runs: int) -> Milliseconds:
    """Operator → the least milliseconds that it took in a run."""
    encode, least = torch_encoder(model), dict[str, float]()
    for _ in range(runs):
        with profile(activities=[ProfilerActivity.CPU]) as found:
            encode(frame)
        for event in found.key_averages():
            least[event.key] = min(least.get(event.key, np.inf), event.self_cpu_time_total / 1000)
    return least


def profile_file(path: Path, frame: Array, *, runs: int) -> Milliseconds:
    """The same of a file in ONNX Runtime."""
    return {kind: one["milliseconds"] for kind, one in profile_onnx(path, frame, runs=runs).items()}


def grouped(milliseconds: Milliseconds) -> dict[str, float]:
    """Group → milliseconds."""
    found: dict[str, float] = collections.defaultdict(float)
    for kind, value in milliseconds.items():
        found[_GROUPS.get(kind, _REST)] += value
    return {group: round(value, 1) for group, value in found.items()}


def profile_threads(files: Mapping[str, Path], frame: Array, *, runs: int) -> dict[str, dict[str, Milliseconds]]:
    """Encoder → threads → kind of operator in ONNX Runtime → milliseconds."""
    found: dict[str, dict[str, Milliseconds]] = {}
    for label, file in files.items():
        found[label] = {
            str(threads): {
                kind: one["milliseconds"] for kind, one in profile_onnx(file, frame, runs=runs, threads=threads).items()
            }
            for threads in (1, 2)
        }
    return found


def prepare(
    folder: Path, directory: Path | None, *, runs: int
) -> tuple[dict[str, tuple[Encoder, Profiler]], dict[str, Path]]:
    """Each encoder as a function with what profiles it, and the files of ONNX Runtime."""
    sam = encoders.load_model()
    files = {"float": ONNX.file(encoders.float_directory(sam, folder, ONNX), ENCODER)}
    files["float, channels first"] = encoders.float_graph(sam, folder)
    models = {"float": sam.model}
    for label, source in (("W8A8", quantized(sam, 8, [photograph(folder)], folder)), ("mixed", directory)):
        if source is not None:
            made, manifest = load_model(source, integer=True)
            models[label], files[label] = made.model, folder / f"{label}.onnx"
            save_onnx(encoder_model(made, manifest, ExportOptions(), sliced=True)[0], files[label])
    found: dict[str, tuple[Encoder, Profiler]] = {}
    for label, model in models.items():
        found[f"PyTorch, {label}"] = torch_encoder(model), partial(profile_torch, model, runs=runs)
    for label in models:
        file = files[label]
        found[f"ONNX Runtime, {label}"] = onnx_encoder(file), partial(profile_file, file, runs=runs)
    return found, files


def take_turns(models: Mapping[str, tuple[Encoder, Profiler]], frame: Array, *, rounds: int) -> dict[str, Any]:
    """Encoder → median seconds, and milliseconds of its groups of operators."""
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(rounds):
        for title, (encode, _) in models.items():
            started = time.perf_counter()
            encode(frame)
            seconds[title].append(round(time.perf_counter() - started, 4))
    return {
        title: {"seconds": float(np.median(seconds[title])), "milliseconds": grouped(count(frame))}
        for title, (_, count) in models.items()
    }


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=3, help="under the profiler")
    parser.add_argument("--rounds", type=int, default=7, help="without it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path, help="a quantized MobileSAM")
    parser.add_argument("--operators", action="store_true", help="with one and with two threads, alone")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # As the command line does: the float model gains most.
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models, files = prepare(folder, arguments.directory, runs=arguments.runs)
        frame = make_frame(encoders.load_model(), photograph(folder).open()).pixels.numpy()
        content = read_json(arguments.output, what="results") if arguments.output.exists() else {}
        if not arguments.operators:
            content["encoders"] = take_turns(models, frame, rounds=arguments.rounds)
            content["machine"] = machine()
        runs = max(arguments.runs, 8)
        content["operators_machine"] = machine()
        content["operators"] = profile_threads({k: files[k] for k in _THREADED}, frame, runs=runs)
    write_json(arguments.output, content)
    print(content)


if __name__ == "__main__":
    main()
