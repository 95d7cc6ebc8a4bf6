"""What a grid for each channel brings the inputs of depthwise convolutions, unit by unit.

    python -m benchmarks.depthwise_grids --coco COCO_FOLDER --output docs/data/depthwise_grids.json

MobileSAM, one unit at 8 bits (weight and input), everything else in float: relative error of the image embedding,
with one grid for the whole input and with one for each channel. About 3 minutes on one core.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import machine
from mixqsam.calibrate import Ranges, cached_ranges, depthwise_units
from mixqsam.data.samples import Sample, draw_calibration_samples
from mixqsam.files import Cache, default_cache, write_json
from mixqsam.numeric.quantizers import ActivationQuantizer, Quantizer
from mixqsam.numeric.weights import quantize_weight
from mixqsam.pipeline.options import Data
from mixqsam.pipeline.stages import load
from mixqsam.progress import Silent
from mixqsam.quantization.nearest import draft
from mixqsam.sam.attach import attach_layer
from mixqsam.sam.forward import encode, make_frame
from mixqsam.sam.load import Sam
from mixqsam.sam.replay import Block, blocks_of, output_maps, record
from mixqsam.weight_grids import WeightGrids


def quantizers(ranges: Ranges, unit: str, *, bits: int) -> dict[str, ActivationQuantizer]:
    """Both ways to quantize the input of a depthwise unit."""
    return {
        "per tensor": Quantizer(ranges.grid(unit, operand="input", bits=bits)),
        "per channel": ranges.quantizer(unit, operand="input", bits=bits),
    }


def with_unit(sam: Sam, unit: str, quantizer: ActivationQuantizer, weights: WeightGrids) -> Sam:
    """The float model with one unit quantized."""
    found = draft(sam)
    weight = quantize_weight(weights.weight(unit), weights.grid(unit, bits=quantizer.bits))
    attach_layer(found.model, unit, weight=weight, quantizer=quantizer)
    return found


@torch.no_grad()
def errors(model: Sam, exact: Sequence[Mapping[str, Tensor]], blocks: list[Block], unit: str) -> float:
    """‖ê − e‖ / ‖e‖ of the embedding over all images, by running the encoder from the unit's block on."""
    start = next(index for index, block in enumerate(blocks) if unit in block.units)
    wrong = whole = 0.0
    for values in exact:
        state: Mapping[str, Tensor] = values
        wanted = output_maps(blocks[0].chain, state)["embedding"]
        for block in blocks[start:]:
            state = block.run(model, state)
        found = output_maps(blocks[0].chain, state)["embedding"]
        wrong += float((found - wanted).square().sum())
        whole += float(wanted.square().sum())
    return float((wrong / whole) ** 0.5)


@torch.no_grad()
def measure(sam: Sam, ranges: Ranges, samples: list[Sample], *, bits: int) -> dict[str, Any]:
    """Errors of every depthwise unit."""
    blocks, weights = blocks_of(sam, "encoder"), WeightGrids(sam, observer="omse")
    exact = []
    for sample in samples:
        frame = make_frame(sam, sample.open())
        exact.append(record(sam.model, blocks[0].chain, partial(encode, sam, frame))[0])
    found = {}
    for unit in depthwise_units(sam):
        both = quantizers(ranges, unit, bits=bits)
        found[unit] = {
            label: round(errors(with_unit(sam, unit, one, weights), exact, blocks, unit), 6)
            for label, one in both.items()
        }
        print(unit, found[unit], flush=True)
    return found


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=4, help="images that ranges come from")
    parser.add_argument("--count", type=int, default=4, help="images that errors are measured on")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("docs/data/depthwise_grids.json"))
    arguments = parser.parse_args()
    sam, quiet = load("mobile-sam"), Silent()
    train = Data(arguments.coco / "train2017", arguments.coco / "annotations/instances_train2017.json")
    val = Data(arguments.coco / "val2017", arguments.coco / "annotations/instances_val2017.json")
    seen = draw_calibration_samples(
        train.samples(count=None, progress=quiet), count=arguments.calibration, prompts=1, progress=quiet
    )
    ranges = cached_ranges(sam, seen, observer="omse", cache=Cache(default_cache()), progress=quiet)
    samples = val.samples(count=None, progress=quiet)[: arguments.count]
    found = measure(sam, ranges, samples, bits=arguments.bits)
    settings = {"bits": arguments.bits, "calibration": len(seen), "images": len(samples)}
    write_json(arguments.output, {"machine": machine(), **settings, "units": found})


if __name__ == "__main__":
    main()
