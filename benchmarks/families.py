"""Every family at full size: units, sizes, and (with --times) seconds of the encoder, float and quantized.

python -m benchmarks.families                          # units and sizes, no weights: half a minute
python -m benchmarks.families --agreement              # exported models of every family, small ones: ten minutes
python -m benchmarks.families --times                  # random weights at W4A4 on the CPU
python -m benchmarks.families --times --only sam2.1-hiera-tiny
python -m benchmarks.families --times --trial          # small models instead, to try it; nothing is written

What the file has already is kept, so a run that was stopped goes on where it was. Remove an entry to measure it again.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Sam2Config, Sam3TrackerConfig, SamConfig, SamHQConfig

from benchmarks.agreement import compare
from benchmarks.experiments_page import fill
from benchmarks.harness import machine, medians
from benchmarks.importance_cost import photograph
from benchmarks.performance_tables import line
from benchmarks.tiny import make_pictures
from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import load_model, save_model
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import BACKENDS
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.families import FAMILIES, family_of, prepare
from mixqsam.families.compatibility import random_model
from mixqsam.families.family import Family
from mixqsam.families.mobile_sam_config import MobileSamConfig
from mixqsam.families.sam2_layout import SIZES
from mixqsam.families.sam_hq_light_config import SamHqLightConfig
from mixqsam.files import Cache, read_json, write_json
from mixqsam.pipeline.export import run_export
from mixqsam.pipeline.options import Session
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.prediction import Predictor
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.runtime.build import integer_model
from mixqsam.sam.forward import encode, make_frame
from mixqsam.sam.load import Sam, default_processor
from mixqsam.sam.predictor import SamPredictor
from mixqsam.sam.units import count_costs

OUTPUT = Path("docs/data/families.json")
PAGE = Path("docs/families.md")
# Tables have at most eight rows; the file has all models.
NOT_SHOWN = ("sam2.1-hiera-small",)
PICTURES = 8
BOXES = np.array([[3.0, 4, 40, 50], [10, 2, 60, 36], [20, 20, 44, 44], [1, 30, 30, 58]])
BITS = (8, 4)
# The float model shows how much masks can differ.
FLOAT = "float"
RUNTIMES = {name: spec.title for name, spec in BACKENDS.items()} | {FLOAT: "float"}

T = TypeVar("T")


class Printed(Silent):
    """Progress as lines, at most one in ten seconds."""

    def __init__(self, name: str) -> None:
        self._name, self._last = name, time.monotonic()

    def track(
        self, items: Iterable[T], *, label: str, total: int, steps: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """See `Progress.track`."""
        done = 0
        for item in items:
            yield item
            done += steps(item) if steps else 1
            if time.monotonic() > self._last + 10:
                self._last = time.monotonic()
                self.note(f"{label} {done}/{total}")

    def note(self, message: str) -> None:
        """See `Progress.note`."""
        print(f"{self._name}: {message}", flush=True)


def sam2(width: int, depths: tuple[int, ...]) -> Sam2Config:
    """A released size of SAM 2.1."""
    heads, windows, spans = SIZES[width, depths]
    dims = [width << stage for stage in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "num_attention_heads": heads,
        "embed_dim_per_stage": dims,
        "blocks_per_stage": list(depths),
        "num_attention_heads_per_stage": [heads << stage for stage in range(4)],
        "window_size_per_stage": list(windows),
        "global_attention_blocks": list(spans),
        "window_positional_embedding_background_size": [14, 14] if width == 112 else [7, 7],
    }
    vision = {"model_type": "sam2_vision_model", "backbone_config": backbone, "backbone_channel_list": dims[::-1]}
    return Sam2Config(vision_config=vision)


MODELS: dict[str, Callable[[], Any]] = {
    "sam-vit-base": SamConfig,
    "mobile-sam": MobileSamConfig,
    "sam-hq-vit-base": SamHQConfig,
    "sam-hq-vit-tiny": SamHqLightConfig,
    "sam2.1-hiera-tiny": lambda: sam2(96, (1, 2, 7, 2)),
    "sam2.1-hiera-small": lambda: sam2(96, (1, 2, 11, 2)),
    "sam2.1-hiera-base-plus": lambda: sam2(112, (2, 3, 16, 3)),
    "sam2.1-hiera-large": lambda: sam2(144, (2, 6, 36, 4)),
    "sam3-tracker": Sam3TrackerConfig,
}


def count(config: Any) -> dict[str, float]:
    """What a model without weights says of itself."""
    costs = count_costs(config)
    plan = BitPlan.uniform(costs.units, UnitBits(4, 4))
    return {
        "units": len(costs.units),
        "encoder_gmacs": sum(unit.multiply_adds for unit in costs.units if unit.part == "encoder") / 1e9,
        "float_mb": costs.size(costs.float_plan) / 1e6,
        "w4a4_mb": costs.size(plan) / 1e6,
    }


@torch.no_grad()
def random_sam(config: Any) -> Sam:
    """A model with random weights that are not degenerate."""
    torch.manual_seed(0)
    model = family_of(config).model._from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
    return Sam(prepare(model).eval().requires_grad_(False), default_processor(config), "random")


def time_encoder(config: Any, *, repeats: int, progress: Printed) -> dict[str, float]:
    """Median seconds of the image encoder, float and at W4A4 in whole numbers; the models alternate."""
    sam = random_sam(config)
    with tempfile.TemporaryDirectory() as folder:
        sample = photograph(Path(folder))
        integer = integer_model(quantized(sam, 4, [sample], Path(folder), progress=progress)[0])
        frame = make_frame(sam, sample.open())
    progress.note("quantized; the encoders are timed")
    actions = {"float_seconds": lambda: encode(sam, frame), "w4a4_seconds": lambda: encode(integer, frame)}
    medians(actions, repeats=1)
    return medians(actions, repeats=repeats)


def quantized(sam: Sam, bits: int, samples: list[Sample], folder: Path, *, progress: Silent) -> tuple[Sam, BitPlan]:
    """A model with all units at the same bits, on ranges from minimum to maximum, and the plan."""
    plan = BitPlan.uniform(sam.costs().units, UnitBits(bits, bits))
    found = quantize(sam, plan, samples, recipe=RECIPES["minmax"], cache=Cache(folder), progress=progress)
    return found.sam, plan


def agreement(family: Family, bits: int, runtimes: list[str]) -> dict[str, float]:
    """Mean mask IoU of a family's smallest model in each runtime to integer PyTorch, with random weights."""
    with torch.no_grad():
        model = random_model(family)
    sam = Sam(prepare(model).requires_grad_(False), default_processor(model.config), f"random {family.name}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = sorted(make_pictures(folder / "pictures", count=PICTURES).iterdir())
        samples = [Sample(path, 64, 60, Prompts(boxes=BOXES)) for path in pictures]
        directory = save_quantized(sam, bits, samples[:2], folder)
        reference = logits_of(SamPredictor(load_model(directory, integer=True)[0]), samples)
        # Masks of random models are often empty or whole: each is cut where half of its pixels are inside.
        cuts = [np.median(logits) for logits in reference]
        found = {}
        for runtime in runtimes:
            predictor = SamPredictor(sam) if runtime == FLOAT else exported(directory, folder, runtime)
            masks, expected = (
                [one > cut for one, cut in zip(logits, cuts, strict=True)]
                for logits in (logits_of(predictor, samples), reference)
            )
            found[runtime] = compare(masks, expected)["mean"]
    return found


def save_quantized(sam: Sam, bits: int, samples: list[Sample], folder: Path) -> Path:
    """The directory of a quantized model."""
    made, plan = quantized(sam, bits, samples, folder / "cache", progress=Silent())
    directory = folder / "quantized"
    directory.mkdir()
    save_model(made, Manifest.of(made, plan, recipe="minmax", prompts_per_image=1), directory)
    return directory


def exported(directory: Path, folder: Path, backend: str) -> Predictor:
    """A quantized directory as another runtime runs it."""
    run_export(directory, folder / backend, kind=backend, session=Session(Cache(folder / "cache"), Silent()))
    return ExportedPredictor(folder / backend, backend=backend, precision="f32")


def logits_of(predictor: Predictor, samples: list[Sample]) -> list[NDArray[np.float32]]:
    """Of one mask for each prompt of each image."""
    found: list[NDArray[np.float32]] = []
    for sample in samples:
        predictor.set_image(sample.open())
        found += list(predictor.segment(sample.prompts).logits[:, 0])
    return found


def agreement_table(rows: dict[str, dict[str, float]]) -> str:
    """The rows of the page: a column for each runtime and number of bits."""
    columns = {f"{name}-{bits}": f"{title}, W{bits}A{bits}" for name, title in RUNTIMES.items() for bits in BITS}
    lines = [line(["family", *columns.values()]), line(["---", *["---:"] * len(columns)])]
    for name, row in rows.items():
        lines.append(line([f"`{name}`", *(f"{row[key]:.3f}" if key in row else "–" for key in columns)]))
    return "\n".join(lines)


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows of the page."""
    head = ["model", "units", "encoder", "float", "W4A4", "encoder float", "encoder W4A4"]
    lines = [line(head), line(["---", *["---:"] * (len(head) - 1)])]
    for name, row in rows.items():
        if name in NOT_SHOWN:
            continue
        times = [f"{row[key]:.2f} s" if key in row else "–" for key in ("float_seconds", "w4a4_seconds")]
        sizes = [f"{row['float_mb']:.0f} MB", f"{row['w4a4_mb']:.1f} MB"]
        lines.append(line([f"`{name}`", f"{row['units']:.0f}", f"{row['encoder_gmacs']:.0f} GMAC", *sizes, *times]))
    return "\n".join(lines)


def measure_agreement(known: dict[str, Any]) -> None:
    """Add what is missing; the file is written after each family."""
    rows = known.setdefault("agreement", {})
    for name, family in FAMILIES.items():
        row = rows.setdefault(name, {})
        for bits in BITS:
            if missing := [runtime for runtime in RUNTIMES if f"{runtime}-{bits}" not in row]:
                row |= {f"{runtime}-{bits}": iou for runtime, iou in agreement(family, bits, missing).items()}
                write_json(OUTPUT, known)
        print(name, row, flush=True)


def measure_models(known: dict[str, Any], names: list[str], *, times: bool, repeats: int) -> None:
    """Count all of them, and time those that have no times yet; the file is written after each model."""
    for index, name in enumerate(names, start=1):
        row = known["models"].setdefault(name, {})
        row |= count(MODELS[name]())
        if times and "w4a4_seconds" not in row:
            progress = Printed(f"{name} ({index} of {len(names)})")
            progress.note("random weights are made and quantized")
            row |= time_encoder(MODELS[name](), repeats=repeats, progress=progress)
            known["machine"] = machine()
        write_json(OUTPUT, known)
        print(name, row, flush=True)


def try_times() -> None:
    """Time the smallest model of every family."""
    for name, family in FAMILIES.items():
        if family.sample is not None:
            print(name, time_encoder(family.sample(), repeats=1, progress=Printed(name)), flush=True)


def main() -> None:
    """Parse arguments, measure what is not known yet, write the file and the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--trial", action="store_true")
    parser.add_argument("--only", choices=list(MODELS), nargs="*", default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.trial:
        try_times()
        return
    known = read_json(OUTPUT, what="results of a benchmark") if OUTPUT.is_file() else {"models": {}}
    if arguments.agreement:
        measure_agreement(known)
    measure_models(known, arguments.only, times=arguments.times, repeats=arguments.repeats)
    known["models"] = {name: known["models"][name] for name in MODELS if name in known["models"]}
    write_json(OUTPUT, known)
    tables = {"families": table(known["models"]), "exported": agreement_table(known.get("agreement", {}))}
    fill(PAGE, tables)


if __name__ == "__main__":
    main()
