"""How much of MobileSAM's image encoder mixed bits leave at 16 bits, which computes in float in every runtime.

    python -m benchmarks.half_shares --coco ../shared/data/coco-mini

The present version chooses the bits with the settings of `benchmarks.peers_mobile_sam`, which times such encoders: the
decoder stays in float, 32 images of train2017 choose, and weights are rounded to nearest. About eight minutes on one
core.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.mobile_encoders import coco_data
from mixqsam.allocation.budget import Budget
from mixqsam.cli.bars import ProgressBars
from mixqsam.files import Cache, write_json
from mixqsam.measurements import Analysis
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions
from mixqsam.pipeline.recipe_analysis import analyze_for_recipe
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import calibration_samples, choose_bits
from mixqsam.plan import HALF_BITS, BitPlan
from mixqsam.quantization.recipes import find_recipe
from mixqsam.sam.load import load_sam

_IMAGES, _RECIPE, _KEEP, _BUDGETS = 32, "omse", ("mask_decoder.*=float",), ("W8A8", "W6A6", "W4A4")


def count_half(analysis: Analysis, plan: BitPlan) -> dict[str, float]:
    """Count the encoder's units, those with 16 bits, and the share of the multiply-adds that these have."""
    units = [unit for unit in analysis.units if unit.part == "encoder"]
    half = [unit for unit in units if HALF_BITS in {plan.bits[unit.name].weight, plan.bits[unit.name].activation}]
    work = sum(unit.multiply_adds for unit in units)
    return {"units": len(units), "half": len(half), "share": sum(unit.multiply_adds for unit in half) / work}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Choose the bits at each budget, and count what is left at 16 bits."""
    session = Session(Cache(arguments.cache, wait_for_locks=True), ProgressBars())
    sam = load_sam(arguments.model)
    options = AnalysisOptions(
        count=_IMAGES, importance=False, pairs=False, sensitivity_bits=(), fisher=("bernoulli",), fisher_draws=_IMAGES
    )
    samples = calibration_samples(coco_data(arguments.coco, "train"), options, session)
    found = {}
    for text in _BUDGETS:
        budget = Budget.parse(text)
        analysis = analyze_for_recipe(
            sam, samples, recipe=find_recipe(_RECIPE), budget=budget, options=options, session=session
        )
        found[text] = count_half(analysis, choose_bits(analysis, budget, options=AllocationOptions(keep=_KEEP)).plan)
    return found


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="mobile-sam")
    parser.add_argument("--coco", type=Path, default=Path("../shared/data/coco-mini"))
    parser.add_argument("--cache", type=Path, default=Path("out/mixed-bits"))
    parser.add_argument("--output", type=Path, default=Path("docs/data/half_shares.json"))
    arguments = parser.parse_args()
    found = run(arguments)
    for budget, one in found.items():
        print(f"{budget}: {one['half']} of {one['units']} units, {one['share']:.1%} of the multiply-adds")
    write_json(arguments.output, {"machine": machine(), "model": arguments.model, "budgets": found})


if __name__ == "__main__":
    main()
