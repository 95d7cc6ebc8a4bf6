"""Compare closed-form compensation with rounding to nearest, for several methods, λ, rows and inputs.

    python -m benchmarks.compensation --model ../shared/models/sam-tiny --coco ../shared/data/coco-mini
    python -m benchmarks.compensation --table     # the table of docs/recipes.md

Calibrates on train2017. Images 1–50 of val2017 with ground-truth boxes select the options; others are
not used. Each row is stored, so that a stopped run resumes. A row of sam-tiny takes about a minute on a free core.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from benchmarks.harness import machine
from mixqsam.cli.bars import ProgressBars
from mixqsam.data.samples import Sample
from mixqsam.files import Cache, digest, read_json, write_json
from mixqsam.pipeline.options import AnalysisOptions, Data, Session
from mixqsam.pipeline.stages import calibration_samples
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.quantization.compensation.method import Compensation
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.sam.forward import decode, encode, full_logits, make_frame, prompt_tensors
from mixqsam.sam.load import Sam, load_sam

# With a plus: the decoder at 8 bits, as a mixture would have it; the rest as it says.
BITS = ("W8A8", "W6A6", "W4A8", "W4A4", "W3A3", "W2A4", "W6A6+", "W4A4+", "W3A3+", "W2A4+")
_VERSION = 3
_SEEN = 50


@dataclass(frozen=True)
class Row:
    """One way to quantize.

    Attributes:
        label: label in the table.
        method: method of compensation; None for rounding to nearest.
        bits: bits of all units.
    """

    label: str
    method: Compensation | None
    bits: str


def rows(bits: Sequence[str]) -> Iterator[Row]:
    """Nearest, each way by itself, and variants of the default."""
    default = RECIPES["compensated"].compensation
    assert default is not None
    for one in bits:
        yield Row("nearest", None, one)
        for way in default.ways[1:]:
            yield Row(f"{way} everywhere", replace(default, ways=(way,), forced=True), one)
        for label, method in variants(default):
            yield Row(label, method, one)


def variants(default: Compensation) -> Iterator[tuple[str, Compensation]]:
    """The default, and the default but for one thing."""
    yield "default", default
    yield "float inputs", replace(default, inputs="float")
    yield "float inputs, ridge-gptq everywhere", replace(default, inputs="float", ways=("ridge-gptq",), forced=True)
    for damping in (0.01, 0.1, 1.0):
        yield f"λ {damping:g}", replace(default, dampings=(damping,))
    for count in (2048, 8192, 32768):
        yield f"{count} positions", replace(default, positions=count)
    # With frames of 1024 pixels, the default takes 8 images, or 16 of a cheap model; with small frames, all of them.
    yield "8 images", replace(default, cheap_images=0)
    yield "32 images", replace(default, least_images=32)
    yield "columns in turn", replace(default, ordered=False)
    yield "observer's grids", replace(default, weighted_grids=False)
    yield "biases left", replace(default, biases=False)
    yield "fitted once", replace(default, refits=False)
    # Weaker damping, which is how float inputs were tried first.
    weak, label = replace(default, dampings=(0.01, 0.1), refits=False), "λ 0.01 or 0.1, fitted once"
    exact = replace(weak, inputs="float")
    yield label, weak
    yield f"{label}, float inputs", exact
    yield f"{label}, float inputs, ridge-gptq everywhere", replace(exact, ways=("ridge-gptq",), forced=True)
    yield "no passes" if default.passes else "3 passes", replace(default, passes=0 if default.passes else 3)


def plan_of(sam: Sam, text: str) -> BitPlan:
    """Uniform bits; `W4A4+` leaves the decoder 8."""
    units = sam.costs().units
    weight, _, activation = text.removeprefix("W").removesuffix("+").partition("A")
    plan = BitPlan.uniform(units, UnitBits(int(weight), int(activation)))
    if not text.endswith("+"):
        return plan
    fine = {unit.name: UnitBits(8, 8) for unit in units if unit.part == "decoder"}
    return BitPlan({**plan.bits, **fine})


class Judge:
    """Measures the distance of a model to the float one on the selection images."""

    def __init__(self, sam: Sam, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self._exact = [self._answer(sam, sample) for sample in samples]

    def __call__(self, sam: Sam) -> dict[str, float]:
        """Relative error of the embedding (mean over images), and mean IoU of masks (over boxes)."""
        errors, ious = [], []
        for sample, (embedding, masks) in zip(self.samples, self._exact, strict=True):
            found, seen = self._answer(sam, sample)
            errors.append(float((found - embedding).square().sum() / embedding.square().sum()))
            both, either = (masks & seen).sum((-2, -1)), (masks | seen).sum((-2, -1))
            ious += torch.where(either > 0, both / either.clamp(min=1), 1.0).tolist()
        return {"embedding": sum(errors) / len(errors), "iou": sum(ious) / len(ious)}

    @staticmethod
    @torch.no_grad()
    def _answer(sam: Sam, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        frame = make_frame(sam, sample.open())
        maps = encode(sam, frame)
        logits, _ = decode(sam, maps, prompt_tensors(sam, sample.prompts, frame))
        return maps["embedding"], full_logits(logits, frame)[:, 0] > 0


def measure(sam: Sam, row: Row, samples: Sequence[Sample], judge: Judge, session: Session) -> dict[str, Any]:
    """Quantize in one way and judge the result."""
    recipe = replace(RECIPES["compensated"], name=f"trial-{digest(row.label)}", compensation=row.method)
    plan = plan_of(sam, row.bits)
    started = monotonic()
    found = quantize(
        sam, plan, samples, recipe=recipe, cache=session.cache, progress=session.progress, grids=session.grids
    )
    seconds = monotonic() - started
    ways: dict[str, int] = {}
    for log in found.logs:
        ways[log.ending] = ways.get(log.ending, 0) + 1
    method = row.method and asdict(row.method)
    about = {"label": row.label, "bits": row.bits, "method": method, "seconds": seconds, "ways": ways}
    return {**about, **judge(found.sam)}


def main() -> None:
    """Parse arguments; measure and write, or print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, default=Path("../shared/models/sam-tiny"))
    parser.add_argument("--coco", type=Path, default=Path("../shared/data/coco-mini"))
    parser.add_argument("--table", action="store_true", help="only print the stored rows")
    parser.add_argument("--output", type=Path, default=Path("docs/data/compensation.json"))
    parser.add_argument("--cache", type=Path, default=Path("out/experiment-cache"))
    parser.add_argument("--bits", nargs="+", default=list(BITS))
    parser.add_argument("--labels", nargs="+", default=None, help="only these rows")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(table(arguments.output, arguments.bits, labels=arguments.labels)))
        return
    run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Measure the missing rows."""
    session = Session(Cache(arguments.cache, wait_for_locks=True), ProgressBars())
    sam = load_sam(arguments.model)
    coco = arguments.coco
    train = Data(coco / "train2017", coco / "annotations/instances_train2017.json")
    samples = calibration_samples(train, AnalysisOptions(), session)
    val = Data(coco / "val2017", coco / "annotations/instances_val2017.json")
    judged = [one for one in val.samples(count=None, progress=session.progress)[:_SEEN] if len(one.prompts)]
    judge: Judge | None = None
    for row in rows(arguments.bits):
        if arguments.labels and row.label not in arguments.labels:
            continue
        key = digest(_VERSION, sam.fingerprint, row.bits, row.method and asdict(row.method))
        found = session.cache.get("compensation-trial", key)
        if found is None:
            judge = judge or Judge(sam, judged)
            found = measure(sam, row, samples, judge, session)
            session.cache.put("compensation-trial", key, found)
        found["label"] = row.label
        session.progress.note(f"{row.bits} {row.label}: IoU {found['iou']:.3f}, embedding {found['embedding']:.4f}")
        record(arguments.output, sam, found)


def table(path: Path, bits: Sequence[str], *, labels: Sequence[str] | None = None) -> Iterator[str]:
    """Markdown: for each model a table of rows × bits, IoU with the float masks and relative error of the embedding."""
    for model, found in read_json(path, what="results of this script")["models"].items():
        cells = {(row["label"], row["bits"]): f"{row['iou']:.3f}, {row['embedding']:.4f}" for row in found}
        known = list(dict.fromkeys(row["label"] for row in found))
        yield "| " + " | ".join([model, *bits]) + " |"
        yield "|" + "---|" * (len(bits) + 1)
        for label in labels or known:
            yield "| " + " | ".join([label, *(cells.get((label, one), "–") for one in bits)]) + " |"
        yield ""


def record(path: Path, sam: Sam, found: dict[str, Any]) -> None:
    """Write one row into the file of results; it replaces a row of the same name."""
    known = read_json(path, what="results of this script") if path.exists() else {"models": {}}
    name = Path(sam.source).name
    kept = [r for r in known["models"].get(name, []) if (r["bits"], r["label"]) != (found["bits"], found["label"])]
    known["models"][name] = [*kept, found]
    write_json(path, {"machine": machine(), "models": known["models"]})


if __name__ == "__main__":
    main()
