"""Measure what rounding to nearest takes at full size: one pass for each image, the ranges, and the grids of weights.

    python -m benchmarks.nearest_cost --size b l

Random weights of ViT-B, ViT-L or ViT-H at 1024 × 1024, uniform W4A4, one image. Each size runs in a process of its own.
A minute for ViT-B and three for ViT-L on 2 cores.
"""

import argparse
import multiprocessing
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import SamConfig

from benchmarks.families import random_sam
from benchmarks.harness import machine, peak_gigabytes
from benchmarks.importance_cost import SIZES, photograph
from mixqsam.calibrate import cached_ranges
from mixqsam.files import Cache, read_json, write_json
from mixqsam.heap import keep_freed_memory
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.sam.forward import decode, encode, make_frame, prompt_tensors

OUTPUT = Path("docs/data/nearest_cost.json")


def measure(size: str) -> dict[str, float]:
    """Seconds of the stages, and the peak of the process's memory."""
    # As the command line does.
    keep_freed_memory()
    sam = random_sam(SamConfig(vision_config=SIZES[size]))
    plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
    with tempfile.TemporaryDirectory() as name:
        sample, cache = photograph(Path(name)), Cache(Path(name) / "cache")
        frame = make_frame(sam, sample.open())
        prompts = prompt_tensors(sam, sample.prompts, frame)
        moments = [time.perf_counter()]
        decode(sam, encode(sam, frame), prompts)
        moments.append(time.perf_counter())
        cached_ranges(sam, [sample], observer=RECIPES["omse"].observer, cache=cache, progress=Silent())
        moments.append(time.perf_counter())
        quantize(sam, plan, [sample], recipe=RECIPES["omse"], cache=cache, progress=Silent())
        moments.append(time.perf_counter())
    plain, calibration, weights = (after - before for before, after in pairwise(moments))
    return {"pass": plain, "calibration": calibration, "weights": weights, "peak_gigabytes": peak_gigabytes()}


def main() -> None:
    """Parse arguments, measure, write after each size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--size", choices=list(SIZES), nargs="*", default=["b", "l"])
    arguments = parser.parse_args()
    content: dict[str, Any] = read_json(OUTPUT, what="results") if OUTPUT.is_file() else {"sizes": {}}
    for size in arguments.size:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            content["sizes"][f"vit-{size}"] = pool.apply(measure, (size,))
        content["machine"] = machine()
        write_json(OUTPUT, content)
        print(content["sizes"], flush=True)


if __name__ == "__main__":
    main()
