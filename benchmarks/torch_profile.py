"""Where the time goes in PyTorch: the float encoder and ours at W8A8, kernel by kernel, and both beside busy processes.

    python -m benchmarks.torch_profile --output docs/data/torch_profile.json

A windowed and a global block of ViT-B, with patch embedding and neck: random weights, 1024 × 1024 pixels. The encoders
take turns in one process. The time of each kernel is the shortest of several runs, call by call. What was measured is
written after each run. About a minute on one thread of a quiet machine.
"""

import argparse
import collections
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import SamConfig

from benchmarks.encoders import quantized, torch_encoder
from benchmarks.harness import machine, medians, peak_gigabytes
from benchmarks.importance_cost import photograph, random_sam
from mixqsam.artifact.store import load_model
from mixqsam.families import prepare
from mixqsam.files import write_json
from mixqsam.heap import keep_freed_memory
from mixqsam.sam.forward import make_frame
from mixqsam.sam.load import Sam, default_processor

# What PyTorch's kernels do, for people. The rest are sums, bounds, roundings and views.
_PRODUCTS, _REST = "integer products", "sums, codes, views"
_GROUPS = {
    "onednn::qlinear_pointwise": _PRODUCTS,
    "onednn::qlinear_prepack": "keys and values as weights",
    "aten::bmm": "float products",
    "aten::addmm": "float products",
    "aten::mm": "float products",
    "aten::mkldnn_convolution": "float products",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention, fused",
    "aten::_softmax": "softmax",
    "aten::copy_": "copies and conversions",
    "aten::cat": "copies and conversions",
    "aten::gelu": "GELU and normalisation",
    "aten::native_layer_norm": "GELU and normalisation",
}
_BLOCKS = {"num_hidden_layers": 2, "global_attn_indexes": [1]}
Encode = Callable[[], object]


class Kernels:
    """The shortest time of each call of each kernel.

    Attributes:
        microseconds: of each call, in order, with the kernel's name.
    """

    def __init__(self) -> None:
        self.microseconds: list[tuple[str, float]] = []

    def add(self, encode: Encode) -> None:
        """Encode once, and count."""
        with profile(activities=[ProfilerActivity.CPU]) as found:
            encode()
        events = sorted(found.events(), key=lambda event: event.time_range.start)
        calls = [(event.name, float(event.self_cpu_time_total)) for event in events if event.name.find("::") > 0]
        if not self.microseconds:
            self.microseconds = calls
            return
        pairs = zip(self.microseconds, calls, strict=True)
        self.microseconds = [(name, min(least, now)) for (name, least), (_, now) in pairs]

    def milliseconds(self) -> dict[str, float]:
        """Of each group of kernels."""
        groups: dict[str, float] = collections.defaultdict(float)
        for name, spent in self.microseconds:
            groups[_GROUPS.get(name, _REST)] += spent / 1000
        return {group: round(spent, 1) for group, spent in groups.items()}


def _stay_busy() -> None:
    while True:
        pass


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """While this is open, `count` processes compute beside this one."""
    made = [multiprocessing.get_context("spawn").Process(target=_stay_busy, daemon=True) for _ in range(count)]
    for process in made:
        process.start()
    try:
        yield
    finally:
        for process in made:
            process.kill()
            process.join()


def encoders(folder: Path) -> Mapping[str, Encode]:
    """The float encoder and ours, each with a frame."""
    config = SamConfig(vision_config=_BLOCKS)
    sam = Sam(prepare(random_sam(config, implementation="eager")), default_processor(config), "two blocks of vit-b")
    sample = photograph(folder)
    frame = make_frame(sam, sample.open()).pixels.numpy()
    ours, _ = load_model(quantized(sam, 8, [sample], folder), integer=True)
    plain = random_sam(config, implementation="sdpa")
    found = {"PyTorch float32": torch_encoder(plain), "mixqsam W8A8, PyTorch": torch_encoder(ours.model)}
    return {name: partial(encode, frame) for name, encode in found.items()}


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    result: dict[str, Any] = {"machine": machine(), "runs": arguments.runs}
    with tempfile.TemporaryDirectory() as name:
        actions = encoders(Path(name))
        for encode in actions.values():
            encode()
        result["seconds"] = medians(actions, repeats=arguments.runs)
        write_json(arguments.output, result)
        with busy_processes(arguments.threads):
            result["busy_seconds"] = medians(actions, repeats=arguments.runs)
        write_json(arguments.output, result)
        kernels = {title: Kernels() for title in actions}
        for _ in range(arguments.runs):
            for title, encode in actions.items():
                kernels[title].add(encode)
            result["milliseconds"] = {title: one.milliseconds() for title, one in kernels.items()}
            result["peak_gigabytes"] = peak_gigabytes()
            write_json(arguments.output, result)
    print(result)


if __name__ == "__main__":
    main()
