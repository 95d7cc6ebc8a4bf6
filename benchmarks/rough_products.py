"""What products in bfloat16 change in the Fisher sensitivity, and how much time they save there and in calibration.

    python -m benchmarks.rough_products --coco ../shared/data/coco-mini

SAM-B has random weights, and photographs of noise of 1024 × 1024 pixels. Each image is measured with both kinds of
products, with the same two draws. Before that, it passes through the model as in a calibration. sam-tiny has no
products that are large enough, so all of them are made in bfloat16 there: bits are chosen by both kinds, and compared
by their expected cost. About 6 minutes on two cores with bfloat16; elsewhere there is nothing to compare.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.fisher_stopping import Experiment, changed, cost
from benchmarks.harness import machine
from benchmarks.quantize_cost import make_inputs
from mixqsam.allocation.budget import Budget
from mixqsam.analysis.fisher import FisherMeter
from mixqsam.calibrate import run_sample
from mixqsam.files import write_json
from mixqsam.numeric import rough
from mixqsam.pipeline import stages
from mixqsam.pipeline.data import Data
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions
from mixqsam.pipeline.session import open_session
from mixqsam.pipeline.stages import choose_bits
from mixqsam.plan import Vector
from mixqsam.sam.load import load_sam

_DRAWS = 2
_BUDGETS = ("W6A6", "W4A4", "W3A3")


def measure(images: int) -> dict[str, Any]:
    """Seconds of an image with both kinds, and how far they are apart: deviations of logarithms over units and bits."""
    with tempfile.TemporaryDirectory() as name:
        model, photographs = make_inputs("b", images + 1, Path(name))
        session = open_session(cache=Path(name) / "cache")
        sam = load_sam(model)
        first, *others = stages.calibration_samples(Data(photographs), AnalysisOptions(count=images + 1), session)
        ranges = stages.find_ranges(sam, [first], observer="omse", session=session)
        meter = FisherMeter(sam, ranges, session.grids.of(sam, observer="omse"))
        meter.measure(first, output="bernoulli", draws=1)  # grids of weights are searched once
        found: dict[bool, list[Vector]] = {False: [], True: []}
        seconds: dict[bool, list[float]] = {False: [], True: []}
        passes: dict[bool, list[float]] = {False: [], True: []}
        for sample in others:
            for is_rough in (False, True):
                with mock.patch.object(rough, "_has_bfloat16", return_value=is_rough):
                    started = perf_counter()
                    with torch.no_grad():
                        run_sample(sam, sample)
                    passes[is_rough].append(perf_counter() - started)
                    started = perf_counter()
                    found[is_rough].append(meter.measure(sample, output="bernoulli", draws=_DRAWS))
                    seconds[is_rough].append(perf_counter() - started)
                print(is_rough, seconds[is_rough][-1], flush=True)
    # [images, 2, draws, units, 2, bits]
    exact, short = np.stack(found[False]), np.stack(found[True])
    return {
        "images": images,
        "draws": _DRAWS,
        "seconds_float32": float(np.median(seconds[False])),
        "seconds_bfloat16": float(np.median(seconds[True])),
        "pass_float32": float(np.median(passes[False])),
        "pass_bfloat16": float(np.median(passes[True])),
        "mean": deviation(exact[:, 0].mean(axis=(0, 1)), short[:, 0].mean(axis=(0, 1))),
        "diagonal": deviation(exact[:, 1], short[:, 1]),
        "between_draws": deviation(exact[:, 0, 0], exact[:, 0, 1]),
    }


def choose(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Bits of sam-tiny chosen with all products in bfloat16, against those chosen in float32.

    Returns:
        Budget → operands with other bits, and what the choice costs more, by the float32 analysis of the images that
        chose (`own`) and of others (`other`).
    """
    exact = Experiment(arguments)
    with mock.patch.object(rough, "_LARGE", 1):
        short = Experiment(arguments)
    judges = {"own": exact.analyze(exact.own), "other": exact.analyze(exact.other)}
    found = {}
    for budget in _BUDGETS:
        best, plan = (
            choose_bits(one.analyze(one.own), Budget.parse(budget), options=AllocationOptions()).plan
            for one in (exact, short)
        )
        excess = {name: cost(judge, plan) / cost(judge, best) - 1 for name, judge in judges.items()}
        found[budget] = {"differs": changed(best, plan), **excess}
    return found


def deviation(one: Vector, other: Vector) -> float:
    """Standard deviation of the logarithm of a ratio, over what is positive."""
    clear = (one > 0) & (other > 0)
    return float(np.log(other[clear] / one[clear]).std())


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--images", type=int, default=2, help="of SAM-B")
    parser.add_argument("--model", default="sam-tiny", help="whose bits are chosen")
    parser.add_argument("--coco", type=Path, default=Path("../shared/data/coco-mini"))
    parser.add_argument("--cache", type=Path, default=Path("out/rough-products"))
    parser.add_argument("--output", type=Path, default=Path("docs/data/rough_products.json"))
    arguments = parser.parse_args()
    if not rough._has_bfloat16():
        raise SystemExit("This processor has no instructions for bfloat16, so nothing changes here.")
    found = {"bits": choose(arguments), **measure(arguments.images)}
    print(found)
    write_json(arguments.output, {"machine": machine(), **found})


if __name__ == "__main__":
    main()
