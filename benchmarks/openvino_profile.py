"""Where the time goes in OpenVINO: its own bf16 encoder and ours at W8A8, kernel by kernel.

    python -m benchmarks.openvino_profile --output docs/data/openvino_profile.json

ViT-B with random weights at 1024 × 1024 pixels. The encoders take turns in one process; counters and times are those of
the shortest of several runs, and times are of the processor, which other programs disturb less. About 3 minutes on one
thread.
"""

import argparse
import collections
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import SamConfig

from benchmarks.backends import converted
from benchmarks.encoders import Array, quantized
from benchmarks.harness import machine
from benchmarks.importance_cost import SIZES, photograph, random_sam
from mixqsam.artifact.store import load_model
from mixqsam.exporting.files import ExportOptions, encoder_model, save_onnx
from mixqsam.families import prepare
from mixqsam.files import write_json
from mixqsam.sam.forward import make_frame
from mixqsam.sam.load import Sam, default_processor

# What OpenVINO's types of nodes do, for people; the fused attention is recognised by its softmax.
_ATTENTION, _REST = "attention, fused", "sums, GELU, quantizers, masks"
_GROUPS = {
    "FullyConnected": "linear layers",
    "FullyConnectedQuantizedLegacy": "linear layers",
    "Convolution": "convolutions",
    "MatMul": "relative positions",
    "Transpose": "transposes and reorders",
    "Reorder": "transposes and reorders",
    "MVN": "normalisation",
    "RMS": "normalisation",
    "ReduceMean": "normalisation",
}


class Profiled:
    """An encoder with OpenVINO's counters.

    Args:
        path: of the encoder.
        threads: of OpenVINO.

    Attributes:
        seconds: of the processor, one for each run.
    """

    def __init__(self, path: Path, *, threads: int) -> None:
        import openvino  # noqa: PLC0415

        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
        compiled = openvino.Core().compile_model(str(path), "CPU", settings | {"INFERENCE_PRECISION_HINT": "bf16"})
        self._attentions = {
            node.get_friendly_name()
            for node in compiled.get_runtime_model().get_ops()
            if "softmax" in node.get_rt_info()["originalLayersNames"].astype(str).lower()
            or node.get_rt_info()["layerType"].astype(str) == "ScaledDotProductAttention"
        }
        self._request = compiled.create_infer_request()
        self._least: dict[tuple[str, str, str], float] = {}
        self.seconds: list[float] = []

    def run(self, frame: Array) -> None:
        """Encode, and count."""
        started = time.process_time()
        self._request.infer({"x": frame})
        self.seconds.append(time.process_time() - started)
        for node in self._request.profiling_info:
            if milliseconds := node.real_time.total_seconds() * 1000:
                group = _ATTENTION if node.node_name in self._attentions else _GROUPS.get(node.node_type, _REST)
                key = group, node.exec_type, node.node_name
                self._least[key] = min(self._least.get(key, np.inf), milliseconds)

    def summary(self) -> dict[str, Any]:
        """Seconds of the processor, and the milliseconds and kernels of each group."""
        times: dict[str, float] = collections.defaultdict(float)
        kernels: dict[str, dict[str, float]] = collections.defaultdict(lambda: collections.defaultdict(float))
        for (group, kernel, _), milliseconds in self._least.items():
            times[group] += milliseconds
            kernels[group][kernel] += milliseconds
        return {
            "seconds": min(self.seconds),
            "milliseconds": {group: round(value, 1) for group, value in times.items()},
            "kernels": {group: {k: round(v, 1) for k, v in one.items()} for group, one in kernels.items()},
        }


def write_encoders(folder: Path, size: str) -> tuple[Mapping[str, Path], Array]:
    """The files of both encoders, and a frame."""
    config = SamConfig(vision_config=SIZES[size])
    sam = Sam(prepare(random_sam(config, implementation="eager")), default_processor(config), f"vit-{size}")
    sample = photograph(folder)
    frame = make_frame(sam, sample.open()).pixels.numpy()
    ours, manifest = load_model(quantized(sam, 8, [sample], folder), integer=False)
    path = folder / "ours.onnx"
    save_onnx(encoder_model(ours, manifest, ExportOptions(), sliced=False)[0], path)
    plain = converted(random_sam(config, implementation="sdpa"), frame, folder / "float.xml")
    return {"OpenVINO bf16": plain, "mixqsam W8A8, OpenVINO": path}, frame


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="b")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        files, frame = write_encoders(Path(name), arguments.size)
        encoders = {title: Profiled(path, threads=arguments.threads) for title, path in files.items()}
        for _ in range(arguments.runs):
            for encoder in encoders.values():
                encoder.run(frame)
            found = {title: encoder.summary() for title, encoder in encoders.items()}
            write_json(arguments.output, {"machine": machine(), "encoders": found})
    print(found)


if __name__ == "__main__":
    main()
