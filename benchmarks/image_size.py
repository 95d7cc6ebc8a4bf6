"""What smaller frames cost and save: `sam-tiny` on annotated photographs, and SAM-B's encoder with random weights.

python -m benchmarks.image_size --coco ../shared/data/coco-mini   # 1 minute
python -m benchmarks.image_size --large                           # SAM-B at 1024 and 512 pixels; other rows are kept

Images 51–60 of val2017, prompted by annotated boxes, judge; eight of train2017 calibrate.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import SamConfig

from benchmarks.experiments_page import fill
from benchmarks.harness import machine, medians
from benchmarks.importance_cost import random_sam
from benchmarks.performance_tables import line
from mixqsam.data.samples import Sample, draw_calibration_samples
from mixqsam.evaluation.evaluate import evaluate
from mixqsam.evaluation.latency import time_runs
from mixqsam.families import prepare
from mixqsam.families.resizing import resize_model
from mixqsam.files import Cache, read_json, write_json
from mixqsam.pipeline.options import Data
from mixqsam.pipeline.timed_models import make_picture
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.runtime.build import integer_model
from mixqsam.sam.forward import encode, make_frame
from mixqsam.sam.load import Sam, default_processor, load_sam
from mixqsam.sam.predictor import SamPredictor

if TYPE_CHECKING:
    from mixqsam.prediction import Predictor

OUTPUT = Path("docs/data/image_size.json")
PAGE = Path("docs/choosing.md")
SIDES = (256, 192, 128)
FIRST, LAST = 50, 60


def quantized(sam: Sam, samples: list[Sample]) -> Sam:
    """At 8 bits, rounded to nearest."""
    plan = BitPlan.uniform(sam.costs().units, UnitBits(8, 8))
    with tempfile.TemporaryDirectory() as folder:
        return quantize(sam, plan, samples, recipe=RECIPES["omse"], cache=Cache(Path(folder)), progress=Silent()).sam


def measure_tiny(coco: Path, *, runs: int) -> dict[str, Any]:
    """IoU with the truth, agreement and times of each size, float and with 8 bits."""
    val = Data(coco / "val2017", coco / "annotations/instances_val2017.json")
    train = Data(coco / "train2017", coco / "annotations/instances_train2017.json")
    judging = val.samples(count=None, progress=Silent())[FIRST:LAST]
    calibrating = draw_calibration_samples(
        train.samples(count=None, progress=Silent()), count=8, prompts=4, progress=Silent(), seed=0
    )
    rows: dict[str, dict[str, Any]] = {}
    timed: dict[str, Predictor] = {}
    for side in SIDES:
        sam = load_sam(f"sam-tiny@{side}")
        made = quantized(sam, calibrating)
        models: dict[str, Predictor] = {"float": SamPredictor(sam), "W8A8": SamPredictor(made)}
        results = evaluate(models, judging, annotations=val.annotations, progress=Silent())
        timed |= {f"{side} float": models["float"], f"{side} W8A8": SamPredictor(integer_model(made))}
        for name, result in results.items():
            assert result.coco is not None
            rows[f"{side} {name}"] = {
                "side": side,
                "bits": name,
                "truth_iou": result.truth_iou,
                "ap": result.coco.ap,
                "agreement": result.fidelity.mean_iou if result.fidelity else 1.0,
                "images": result.images,
                "prompts": result.prompts,
            }
    sample = judging[0]
    seconds = time_runs(timed, sample.open(), sample.prompts.at_most(1, seed=0), runs=runs, progress=Silent())
    for name, values in seconds.items():
        encoder, decoder = (statistics.median(part) for part in zip(*values, strict=True))
        rows[name] |= {"encoder_seconds": encoder, "decoder_seconds": decoder}
    return rows


def measure_large(*, repeats: int) -> dict[str, float]:
    """Median seconds of SAM-B's image encoder at both sizes, in turns; the time does not depend on weights."""
    model = random_sam(SamConfig(), implementation="eager")
    models = {"1024": model, "512": resize_model(model, 512, source="SAM-B")}
    sams = {side: Sam(prepare(one).eval(), default_processor(one.config), side) for side, one in models.items()}
    frames = {side: make_frame(sam, make_picture(int(side))) for side, sam in sams.items()}
    actions = {side: lambda side=side: encode(sams[side], frames[side]) for side in sams}
    return medians(actions, repeats=repeats)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows of the page."""
    head = ["frame", "bits", "IoU with the annotations", "AP", "agreement at this size", "time of an image"]
    lines = [line(head), line(["---:", "---", *["---:"] * 4])]
    start = rows["256 float"]["encoder_seconds"]
    for row in rows.values():
        agreement = "–" if row["bits"] == "float" else f"{row['agreement']:.3f}"
        time = f"{row['encoder_seconds'] / start:.2f}×"
        lines.append(
            line([str(row["side"]), row["bits"], f"{row['truth_iou']:.3f}", f"{row['ap']:.1f}", agreement, time])
        )
    return "\n".join(lines)


def main() -> None:
    """Parse arguments, measure, write the file and the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, default=Path("../shared/data/coco-mini"))
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, Any] = read_json(OUTPUT, what="results of a benchmark") if OUTPUT.is_file() else {}
    found["machine"] = machine()
    if arguments.large:
        found["SAM-B encoder, seconds"] = measure_large(repeats=3)
    else:
        found["sam-tiny"] = measure_tiny(arguments.coco, runs=arguments.runs)
    write_json(OUTPUT, found)
    print(found)
    fill(PAGE, {"image-size": table(found["sam-tiny"])})


if __name__ == "__main__":
    main()
