"""What products in bfloat16, in calibration and analysis, change in the masks of quantized models.

    python -m benchmarks.rough_masks --coco COCO_FOLDER                                              # sam-tiny
    python -m benchmarks.rough_masks --coco COCO_FOLDER --model mobile-sam --count 16 --draws 16

Calibration and analysis make large products in bfloat16. sam-tiny and MobileSAM have none that are large enough, so all
of them are made in bfloat16 here. Ranges, bits and rounded weights all follow from what is found so. Each model is
quantized in both ways, and judged on images 51 to 100 of val2017, which chose nothing. A cell takes 1 minute for
sam-tiny and 5 to 10 for MobileSAM, on one core. Finished cells are kept.
"""

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.harness import interval, machine
from benchmarks.mixed_bits import Experiment, add_arguments
from benchmarks.mixed_cells import Cell
from mixqsam.cli.bars import ProgressBars
from mixqsam.files import Cache, read_json, write_json
from mixqsam.numeric import rough
from mixqsam.pipeline.options import Session

_BUDGETS = ("W8A8", "W6A6", "W4A4")


def judge(arguments: argparse.Namespace, budget: str, *, rounds: bool) -> list[list[float]]:
    """IoU with the float masks of each image's prompts, for mixed bits."""
    # Finished calibrations and analyses of the two kinds must not be mixed.
    folder = arguments.cache / ("bfloat16" if rounds else "float32")
    session = Session(Cache(folder, wait_for_locks=True), ProgressBars())
    with mock.patch.object(rough, "_LARGE", 1), mock.patch.object(rough, "_has_bfloat16", return_value=rounds):
        figures = Experiment(arguments, session).run(Cell(budget, "mixed", "compensated"))
    return list(figures["ious"])


def compare(arguments: argparse.Namespace, budget: str) -> dict[str, Any]:
    """Mean IoU with the float masks of both kinds, and their difference, each with its 95% interval."""
    exact, short = (judge(arguments, budget, rounds=rounds) for rounds in (False, True))
    differences = [np.subtract(*pair).tolist() for pair in zip(short, exact, strict=True)]
    return {"float32": interval(exact), "bfloat16": interval(short), "difference": interval(differences)}


def main() -> None:
    """Parse arguments, measure, write after each budget."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    add_arguments(parser, cache=Path("out/rough-masks"))
    # Images that chose nothing.
    parser.set_defaults(first=50)
    parser.add_argument("--budgets", nargs="*", default=_BUDGETS)
    parser.add_argument("--output", type=Path, default=Path("docs/data/rough_masks.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for budget in arguments.budgets:
        found = compare(arguments, budget)
        print(arguments.model, budget, found, flush=True)
        content = read_json(arguments.output, what="results") if arguments.output.is_file() else {"models": {}}
        content["models"].setdefault(arguments.model, {})[budget] = found
        write_json(arguments.output, {**content, "machine": machine()})


if __name__ == "__main__":
    main()
