"""Time and memory of reconstruction: one block of SAM-B or SAM-H at 1024 pixels, and sam-tiny as a whole.

    python -m benchmarks.reconstruction_cost --coco ../shared/data/coco-mini --output docs/data/reconstruction_cost.json

Each measurement runs in a process of its own, so that peaks do not mix. About 8 minutes on 2 cores. `--only blocks`
measures the blocks and leaves the other figures of the file as they are.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import SamConfig

from benchmarks.harness import machine, peak_gigabytes
from benchmarks.importance_cost import SIZES, random_sam
from mixqsam.calibrate import Ranges
from mixqsam.families import prepare
from mixqsam.files import Cache, write_json
from mixqsam.numeric.weights import quantize_weight
from mixqsam.pipeline.options import AnalysisOptions, Data, QuantizationOptions, Session
from mixqsam.pipeline.stages import calibration_samples, quantize_model
from mixqsam.plan import CANDIDATE_BITS, BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.nearest import draft
from mixqsam.quantization.reconstruction.candidate import Frozen
from mixqsam.quantization.reconstruction.fit import Fit, Piece
from mixqsam.quantization.reconstruction.method import QDROP, ReconstructionOptions
from mixqsam.quantization.setting import Setting, observed
from mixqsam.sam.load import Sam, default_processor, load_sam
from mixqsam.sam.replay import blocks_of
from mixqsam.weight_grids import WeightGrids

# Of each size of SAM.
ITERATIONS = {"b": 6, "h": 2}


def block(size: str, index: int) -> dict[str, float]:
    """QDrop on one encoder block of a SAM with random weights: seconds of an iteration, peak memory."""
    config = SamConfig(vision_config=SIZES[size])
    sam = Sam(prepare(random_sam(config, implementation="eager")).eval(), default_processor(config), "random")
    piece = blocks_of(sam, "encoder")[index]
    units = [unit for unit in sam.costs().units if unit.name in piece.units]
    plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
    span = dict.fromkeys(CANDIDATE_BITS, (-4.0, 4.0))
    ranges = Ranges("minmax", {unit.name: dict.fromkeys(unit.activations, span) for unit in sam.costs().units})
    weights = WeightGrids(sam, observer="minmax")
    setting = Setting(sam, units, plan, (), ranges, weights, Cache(Path("unused")), Silent())
    activations = observed(setting)
    grids = {u.name: weights.grid(u.name, bits=4) for u in units if u.kind != "product"}
    start = {
        unit.name: Frozen(
            quantize_weight(weights.weight(unit.name), grids[unit.name]) if unit.name in grids else None,
            {operand: activations[unit.name, operand] for operand in unit.activations},
        )
        for unit in units
    }
    (hidden,), (output,) = piece.chain.calls[index].inputs, piece.outputs
    channels = config.vision_config.hidden_size
    state = {hidden: torch.randn(1, 64, 64, channels, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        target = piece.run(sam, state)[output]

    def loss(model: Sam, _: int) -> torch.Tensor:
        found: torch.Tensor = (piece.run(model, state)[output] - target).square().sum() / 4096
        return found

    fit = Fit(
        draft(sam),
        Piece(piece.name, grids, loss, loss, 1),
        source=sam,
        options=ReconstructionOptions(iterations=ITERATIONS[size]),
        progress=Silent(),
    )
    before, started, busy = peak_gigabytes(), time.perf_counter(), time.process_time()
    _, log = fit.run(start, QDROP.phases)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    # Every iteration is followed by a look at the candidate here, for there are so few of them.
    return {
        "seconds_per_iteration": seconds / log.iterations,
        # Other programs on the machine hardly change this.
        "processor_seconds_per_iteration": busy / log.iterations,
        "peak_gigabytes": peak_gigabytes(),
        "before": before,
    }


def whole(recipe: str, coco: Path) -> dict[str, float]:
    """A recipe on sam-tiny, W4A4, 32 images, the defaults."""
    sam = load_sam("sam-tiny")
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Cache(Path(folder)), Silent())
        data = Data(coco / "train2017", coco / "annotations/instances_train2017.json")
        samples = calibration_samples(data, AnalysisOptions(), session)
        plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
        started = time.perf_counter()
        quantize_model(sam, plan, samples, options=QuantizationOptions(recipe), session=session)
        return {"seconds": time.perf_counter() - started, "peak_gigabytes": peak_gigabytes()}


# Name → size, and index of the block.
JOBS = {"SAM-B, windowed block": ("b", 1), "SAM-B, global block": ("b", 2), "SAM-H, global block": ("h", 7)}
RECIPES = ("adaround", "qdrop", "saq-sam")


def main() -> None:
    """Parse arguments; measure one job, or all of them in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/data/reconstruction_cost.json"))
    parser.add_argument("--only", choices=("blocks", "recipes"))
    parser.add_argument("--job")
    arguments = parser.parse_args()
    if arguments.job:
        found = block(*JOBS[arguments.job]) if arguments.job in JOBS else whole(arguments.job, arguments.coco)
        print(json.dumps(found))
        return
    results: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    jobs = {"blocks": (*JOBS,), "recipes": RECIPES, None: (*JOBS, *RECIPES)}[arguments.only]
    for job in jobs:
        command = [sys.executable, "-m", "benchmarks.reconstruction_cost", "--coco", str(arguments.coco), "--job", job]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        results[job] = json.loads(done.stdout.splitlines()[-1]) | {"machine": machine()}
        print(job, results[job], flush=True)
        write_json(arguments.output, {name: results[name] for name in (*JOBS, *RECIPES) if name in results})


if __name__ == "__main__":
    main()
