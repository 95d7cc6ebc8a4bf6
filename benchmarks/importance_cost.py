"""Measure the cost of importance in encoder passes of transformers' SAM (with SDPA) on the same image.

    python -m benchmarks.importance_cost --size b --output docs/data/importance_cost.json

Random weights of the ViT-B (or L, H) architecture at 1024 × 1024; one image, one box. The plain passes are timed
before and after the analysis, in the same process. About 10 minutes for ViT-B on 2 cores.
"""

import argparse
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import SamConfig, SamModel

from benchmarks.harness import machine, medians, peak_gigabytes, timed
from mixqsam.analysis.ablation import Effects, ablate
from mixqsam.analysis.variants import run_prefix
from mixqsam.data.samples import Sample
from mixqsam.families import prepare
from mixqsam.files import write_json
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts
from mixqsam.sam.load import Sam, default_processor

SIZES = {
    "b": {},
    "l": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "global_attn_indexes": [5, 11, 17, 23],
    },
    "h": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
    },
}


def random_sam(config: SamConfig, *, implementation: str) -> SamModel:
    """A SAM with random weights that are not degenerate (transformers' initial encoder is almost zero)."""
    torch.manual_seed(0)
    model = SamModel._from_config(config, attn_implementation=implementation)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
    return model.eval().requires_grad_(False)


def photograph(folder: Path) -> Sample:
    """A picture of noise and a disc, 1024 × 768."""
    y, x = np.mgrid[:768, :1024]
    pixels = np.random.default_rng(0).integers(0, 120, (768, 1024, 3), dtype=np.uint8)
    pixels[(x - 500) ** 2 + (y - 380) ** 2 < 200**2] += 120
    path = folder / "picture.png"
    Image.fromarray(pixels).save(path)
    return Sample(path, 1024, 768, Prompts(boxes=np.array([[300.0, 180.0, 700.0, 580.0]])))


def measure(size: str) -> dict[str, object]:
    """Cost of one image's importance, as a multiple of a plain encoder pass."""
    config = SamConfig(vision_config=SIZES[size])
    plain = random_sam(config, implementation="sdpa")
    pixels = torch.randn(1, 3, 1024, 1024)

    def encode() -> None:
        with torch.no_grad():
            plain.vision_encoder(pixels)

    encode()
    before = [medians({"plain": encode}, repeats=1)["plain"] for _ in range(3)]
    peak_plain = peak_gigabytes()
    sam = Sam(prepare(random_sam(config, implementation="eager")), default_processor(config), f"vit-{size}")
    names = [unit.name for unit in sam.costs().units]
    pairs, effects = list(pairwise(names)), Effects(sam.costs().units)
    with tempfile.TemporaryDirectory() as folder:
        sample = photograph(Path(folder))

        def importance() -> None:
            ablate(sam, run_prefix(sam, sample), names=names, pairs=[], progress=Silent())

        seconds = timed(importance)
    after = [medians({"plain": encode}, repeats=1)["plain"] for _ in range(3)]
    one = statistics.median([*before, *after])
    return {
        "units": len(names),
        "distinct_ablations": len({effects.reduce([name]) for name in names}),
        "distinct_with_pairs": len({effects.reduce(group) for group in [*((n,) for n in names), *pairs]}),
        "plain_pass_seconds": one,
        "plain_passes": [*before, *after],
        "importance_seconds": seconds,
        "importance_in_plain_passes": seconds / one,
        "peak_gigabytes": peak_gigabytes(),
        "peak_gigabytes_of_plain_passes": peak_plain,
    }


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="b")
    parser.add_argument("--output", type=Path, default=Path("docs/data/importance_cost.json"))
    arguments = parser.parse_args()
    result = {"machine": machine(), f"vit-{arguments.size}": measure(arguments.size)}
    write_json(arguments.output, result)
    print(result)


if __name__ == "__main__":
    main()
