"""Measure `mixqsam quantize` from its start to the report, at full size: the command's own times of its stages.

    python -m benchmarks.quantize_cost --size b --counts 2 32

Random weights of ViT-B, ViT-L or ViT-H, photographs of noise of 1024 × 1024 pixels, W4A4 by the default recipe with an
empty cache. Each number of images runs in a process of its own; finished runs stay in the JSON file, and `--again`
measures them again. Two numbers of images tell what each stage takes once, and what it takes for an image.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import SamConfig, SamModel

from benchmarks.harness import machine
from benchmarks.importance_cost import SIZES
from mixqsam.files import read_json, write_json
from mixqsam.sam.load import default_processor

OUTPUT = Path("docs/data/quantize_cost.json")


def make_inputs(size: str, count: int, folder: Path) -> tuple[Path, Path]:
    """A directory of a model, and one of photographs."""
    model, images = folder / f"sam-{size}", folder / "photographs"
    config = SamConfig(vision_config=SIZES[size])
    torch.manual_seed(0)
    sam = SamModel(config)
    with torch.no_grad():
        for parameter in sam.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
    sam.save_pretrained(model)
    default_processor(config).save_pretrained(model)
    images.mkdir()
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((1024, 1024)).save(images / f"{index}.jpg")
    return model, images


def measure(size: str, count: int) -> dict[str, Any]:
    """Wall seconds of each stage of the command, and their sum."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, images = make_inputs(size, count, folder)
        command = [sys.executable, "-m", "mixqsam", "quantize", "--model", str(model), "--images", str(images)]
        # As many backward passes for an image as by default: 32 of them for 32 images.
        command += ["--count", str(count), "--fisher-draws", str(count), "--budget", "W4A4", "-o", str(folder / "out")]
        subprocess.run(command, check=True, env=os.environ | {"MIXQSAM_CACHE": str(folder / "cache")})  # noqa: S603
        seconds = read_json(folder / "out/run.json", what="the record of a run")["seconds"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    return {"images": count, "seconds": seconds, "total": sum(seconds.values()), "peak_gigabytes": peak}


def main() -> None:
    """Parse arguments, measure, write after each run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--size", choices=list(SIZES), default="b")
    parser.add_argument("--counts", type=int, nargs="*", default=[2])
    parser.add_argument("--again", action="store_true", help="measure finished runs again")
    arguments = parser.parse_args()
    content: dict[str, Any] = read_json(OUTPUT, what="results") if OUTPUT.is_file() else {"runs": {}}
    for count in arguments.counts:
        key = f"vit-{arguments.size} {count}"
        if arguments.again or key not in content["runs"]:
            content["runs"][key] = measure(arguments.size, count)
            content["machine"] = machine()
            write_json(OUTPUT, content)
        print(key, content["runs"][key], flush=True)


if __name__ == "__main__":
    main()
