"""Check whether BRECQ's loss at W4A4 is a bug of mixqsam, on sam-tiny and coco-mini.

    python -m benchmarks.brecq_check --coco ../shared/data/coco-mini --output docs/data/brecq_check.json

First, with 8-bit activations its learned rounding must help (W3A8, compared with OMSE, AdaRound and QDrop). Second,
learning the rounding with quantized instead of float activations must improve W4A4. Takes about 8 minutes on 2 cores.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixqsam.cli.bars import ProgressBars
from mixqsam.evaluation.evaluate import evaluate
from mixqsam.files import Cache, write_json
from mixqsam.pipeline.options import AnalysisOptions, Data, Session
from mixqsam.pipeline.stages import calibration_samples
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.recipes import RECIPES
from mixqsam.quantization.reconstruction.method import BRECQ
from mixqsam.sam.load import load_sam
from mixqsam.sam.predictor import SamPredictor


def entries() -> list[tuple[str, Recipe, UnitBits]]:
    """Label, recipe, bits."""
    first, second = BRECQ.phases
    aware = replace(BRECQ, phases=(replace(first, float_share=0.0), second))
    learned = Recipe("brecq-aware", "", "", method=aware, least_images=4)
    found = [(f"{name}, W3A8", RECIPES[name], UnitBits(3, 8)) for name in ("omse", "adaround", "brecq", "qdrop")]
    found += [(f"{name}, W4A4", RECIPES[name], UnitBits(4, 4)) for name in ("omse", "brecq")]
    return [*found, ("brecq with quantized activations, W4A4", learned, UnitBits(4, 4))]


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/data/brecq_check.json"))
    parser.add_argument("--cache", type=Path, default=Path("out/experiment-cache"))
    arguments = parser.parse_args()
    session = Session(Cache(arguments.cache, wait_for_locks=True), ProgressBars())
    sam = load_sam("sam-tiny")
    coco = arguments.coco
    train = Data(coco / "train2017", coco / "annotations/instances_train2017.json")
    samples = calibration_samples(train, AnalysisOptions(), session)
    annotations = coco / "annotations/instances_val2017.json"
    judged = Data(coco / "val2017", annotations).samples(count=None, progress=session.progress)
    results: dict[str, Any] = {}
    for label, recipe, bits in entries():
        plan = BitPlan.uniform(sam.costs().units, bits)
        quantized = quantize(
            sam, plan, samples, recipe=recipe, cache=session.cache, progress=session.progress, grids=session.grids
        )
        predictors = {"float": SamPredictor(sam), label: SamPredictor(quantized.sam)}
        reports = evaluate(predictors, judged, annotations=annotations, progress=session.progress)
        results[label] = reports[label].to_json()
        write_json(arguments.output, results)


if __name__ == "__main__":
    main()
