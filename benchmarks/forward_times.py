"""Measure encoder and decoder of full-size SAMs (random weights), and estimate the time for COCO val2017.

python -m benchmarks.forward_times --output docs/data/forward_times.json            # SAM-B, L, H on CPUs: 4 minutes
python -m benchmarks.forward_times --device cuda --output out/forward_times.json
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import SamConfig

from benchmarks.harness import machine, medians
from benchmarks.importance_cost import SIZES, random_sam
from mixqsam.families import prepare
from mixqsam.files import write_json
from mixqsam.prompts import Prompts
from mixqsam.sam.forward import decode, encode, make_frame, prompt_tensors
from mixqsam.sam.load import Sam, default_processor

IMAGES, BOXES, AT_ONCE = 5000, 36_000, 8


def measure(vision: dict[str, Any], *, device: str, repeats: int) -> dict[str, float]:
    """Median seconds of one image and of one box."""
    config = SamConfig(vision_config=vision)
    model = prepare(random_sam(config, implementation="eager")).eval().to(device)
    sam = Sam(model, default_processor(config), "random")
    frame = make_frame(sam, Image.fromarray(np.full((768, 1024, 3), 127, dtype=np.uint8)))
    corners = np.tile(np.array([[100.0, 100.0, 400.0, 500.0]]), (AT_ONCE, 1))
    prompts = prompt_tensors(sam, Prompts(boxes=corners), frame)
    maps = encode(sam, frame)

    def finished(action: Any) -> None:
        action()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    seconds = medians(
        {
            "encoder": lambda: finished(lambda: encode(sam, frame)),
            "decoder": lambda: finished(lambda: decode(sam, maps, prompts)),
        },
        repeats=repeats,
    )
    image, box = seconds["encoder"], seconds["decoder"] / AT_ONCE
    return {"image_seconds": image, "box_seconds": box, "coco_hours": (IMAGES * image + BOXES * box) / 3600}


def main() -> None:
    """Parse arguments, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("docs/data/forward_times.json"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": machine() | {"device": arguments.device}}
    for letter, vision in SIZES.items():
        name = f"SAM-{letter.upper()}"
        found[name] = measure(vision, device=arguments.device, repeats=arguments.repeats)
        print(name, found[name])
        write_json(arguments.output, found)


if __name__ == "__main__":
    main()
