"""How far runtimes are from PyTorch, beside how far PyTorch is from itself for a change of 1e-7 in the image.

    python -m benchmarks.runtime_control --models w8 mixed-w8 --coco COCO_FOLDER

`--models` are directories that `mixqsam quantize --model mobile-sam` wrote. Each is exported for ONNX Runtime and for
OpenVINO (float32). The first images of val2017 with annotated boxes are compared. About a minute a model on 2 cores.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import mobile_encoders as encoders
from benchmarks.harness import machine
from benchmarks.performance_tables import line
from mixqsam.artifact.store import load_model
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import BACKENDS
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.evaluation.record import mask_ious
from mixqsam.files import read_json, write_json
from mixqsam.pipeline.export import run_export
from mixqsam.pipeline.session import Session
from mixqsam.prediction import Floats, Predictor
from mixqsam.progress import Silent
from mixqsam.sam.forward import make_frame
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor

CHANGE = 1e-7
_CHANGED = "PyTorch, image changed by 1e-7"


def embeddings(sam: Sam, sample: Sample) -> tuple[Floats, Floats]:
    """PyTorch's embedding of an image, and of the image with a little noise."""
    pixels = make_frame(sam, sample.open()).pixels
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, moved = (sam.model.vision_encoder(x)[0].numpy() for x in (pixels, pixels + CHANGE * noise))
    return exact, moved


def difference(found: Any, expected: Any) -> float:
    """Relative difference of two embeddings."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def compare(directory: Path, plain: Sam, samples: Sequence[Sample]) -> dict[str, Any]:
    """Differences of embeddings, and mean IoU of masks with PyTorch's."""
    sam, _ = load_model(directory, integer=True)
    found: dict[str, dict[str, list[float]]] = {}

    def note(name: str, kind: str, value: float) -> None:
        found.setdefault(name, {}).setdefault(kind, []).append(value)

    with tempfile.TemporaryDirectory() as folder:
        runtimes: dict[str, Predictor] = {}
        for name, backend in BACKENDS.items():
            target = Path(folder) / name
            run_export(directory, target, kind=name, session=Session(progress=Silent()))
            runtimes[backend.title] = ExportedPredictor(target, backend=name, precision="f32")
        ours = SamPredictor(sam)
        for sample in samples:
            exact, moved = embeddings(sam, sample)
            note("float PyTorch", "embedding", difference(embeddings(plain, sample)[0], exact))
            note(_CHANGED, "embedding", difference(moved, exact))
            ours.set_image(sample.open())
            masks = ours.segment(sample.prompts).masks[:, 0]
            for title, predictor in runtimes.items():
                predictor.set_image(sample.open())
                note(title, "embedding", difference(predictor.features.numpy(), exact))
                note(title, "iou", float(mask_ious(predictor.segment(sample.prompts).masks[:, 0], masks).mean()))
    return {name: {kind: float(np.mean(values)) for kind, values in kinds.items()} for name, kinds in found.items()}


def table(content: Mapping[str, Any]) -> str:
    """Rows of what is compared with the quantized model in PyTorch; a column for each model and kind."""
    models = content["models"]
    lines = [line(["against the quantized model in PyTorch", *(f"embedding, {name}" for name in models),
                   *(f"IoU of masks, {name}" for name in models)])]  # fmt: skip
    lines.append(line(["---", *["---:"] * (2 * len(models))]))
    for row in next(iter(models.values())):
        errors = [f"{found[row]['embedding']:.1%}" for found in models.values()]
        ious = [f"{found[row]['iou']:.3f}" if "iou" in found[row] else "–" for found in models.values()]
        lines.append(line([row, *errors, *ious]))
    return "\n".join(lines)


def main() -> None:
    """Compare each model, and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    parser.add_argument("--coco", type=Path, default=Path("../shared/data/coco-mini"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("docs/data/runtime_control.json"))
    arguments = parser.parse_args()
    content: dict[str, Any] = {"models": {}}
    if arguments.output.exists():
        content = read_json(arguments.output, what="results of this script")
    samples = encoders.judged_samples(arguments.coco, first=0, count=arguments.images)
    for directory in arguments.models:
        content["models"][directory.name] = compare(directory, encoders.load_model(), samples)
        write_json(arguments.output, {**content, "images": len(samples), "machine": machine()})
    print(table(content))


if __name__ == "__main__":
    main()
