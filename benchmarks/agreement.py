"""Measure how well the runtimes agree with each other and with the float model, on photographs.

    python -m benchmarks.agreement --coco COCO_FOLDER --output docs/data/agreement.json

Compares mixed models of `sam-tiny` at two budgets: integer PyTorch (the reference), its simulation, ONNX Runtime, and
OpenVINO in float32 and bfloat16. The simulation with weights changed by a factor of 1 ± 2e-7 shows the effect of
rounding errors. Takes about 5 minutes on 2 cores.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import machine
from mixqsam.allocation.budget import Budget
from mixqsam.artifact.store import load_model
from mixqsam.data.samples import Sample
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.files import Cache, write_json
from mixqsam.numeric.modules import QuantizedLayer
from mixqsam.pipeline.export import run_export
from mixqsam.pipeline.options import Data, Evaluation, Options, Session
from mixqsam.pipeline.quantize import run_quantization
from mixqsam.pipeline.stages import make_predictor
from mixqsam.prediction import Predictor
from mixqsam.progress import Silent
from mixqsam.sam.predictor import SamPredictor

Masks = list[NDArray[np.bool_]]


def masks_of(predictor: Predictor, samples: Sequence[Sample]) -> Masks:
    """One mask for each prompt of each image."""
    found: Masks = []
    for sample in samples:
        predictor.set_image(sample.open())
        found += list(predictor.segment(sample.prompts).masks[:, 0])
    return found


def compare(found: Masks, reference: Masks) -> dict[str, float]:
    """IoU of masks: mean and median over masks, and over all pixels together."""
    parts = np.array([((a & b).sum(), (a | b).sum()) for a, b in zip(found, reference, strict=True)])
    ious = np.where(parts[:, 1] == 0, 1.0, parts[:, 0] / np.maximum(parts[:, 1], 1))
    whole = parts.sum(axis=0)
    return {"mean": float(ious.mean()), "median": float(np.median(ious)), "pixels": float(whole[0] / whole[1])}


def moved(directory: Path) -> Predictor:
    """The simulation with weights that differ in the seventh digit."""
    sam, _ = load_model(directory)
    generator = torch.Generator().manual_seed(0)
    for module in sam.model.modules():
        if isinstance(module, QuantizedLayer):
            module.weight.mul_(1 + 2e-7 * torch.randn(module.weight.shape, generator=generator))
    return SamPredictor(sam)


def measure(coco: Path, budget: str, count: int) -> dict[str, Any]:
    """All runtimes of one model."""
    train = Data(coco / "train2017", coco / "annotations/instances_train2017.json")
    val = Data(coco / "val2017", coco / "annotations/instances_val2017.json")
    samples = [one for one in val.samples(count=count, progress=Silent())[:count] if len(one.prompts)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        session = Session(Cache(folder / "cache"), Silent())
        run_quantization(
            "sam-tiny",
            train,
            budget=Budget.parse(budget),
            output=folder / "out",
            options=Options(),
            session=session,
            evaluation=Evaluation(limit=0),
        )
        for kind in ("onnx", "openvino"):
            run_export(folder / "out", folder / kind, kind=kind, session=session)
        predictors = {
            "PyTorch, integer": make_predictor(folder / "out"),
            "PyTorch, simulated": SamPredictor(load_model(folder / "out")[0]),
            "ONNX Runtime": make_predictor(folder / "onnx"),
            "OpenVINO, float32": ExportedPredictor(folder / "openvino", backend="openvino", precision="f32"),
            "OpenVINO, bfloat16": ExportedPredictor(folder / "openvino", backend="openvino", precision="bf16"),
            "simulated, weights moved by 2e-7": moved(folder / "out"),
        }
        floats = masks_of(make_predictor("sam-tiny"), samples)
        found = {label: masks_of(predictor, samples) for label, predictor in predictors.items()}
    reference = found["PyTorch, integer"]
    return {
        label: {"to ours": compare(masks, reference), "to float": compare(masks, floats)}
        for label, masks in found.items()
    }


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("docs/data/agreement.json"))
    arguments = parser.parse_args()
    found = {budget: measure(arguments.coco, budget, arguments.count) for budget in ("W4A4", "W8A8")}
    write_json(arguments.output, {"machine": machine(), "images": arguments.count, **found})
    print(found)


if __name__ == "__main__":
    main()
