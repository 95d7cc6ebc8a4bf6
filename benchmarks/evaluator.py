"""Measure time and memory of COCO's evaluation at full size: 5,000 images, about 36,000 boxes of real masks.

    python -m benchmarks.evaluator --coco ../shared/data/coco-mini --output docs/data/evaluator.json

The masks are those of sam-tiny on the 100 images of coco-mini, repeated 50 times under new numbers. pycocotools
evaluates the same masks; both must agree. Takes about 3 minutes on 2 cores.
"""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.harness import machine, peak_gigabytes, timed
from mixqsam.data.coco import annotated_samples
from mixqsam.evaluation.coco import Truth, mask_results
from mixqsam.files import write_json
from mixqsam.sam.load import load_sam
from mixqsam.sam.predictor import SamPredictor

Records = list[dict[str, Any]]


def predictions(coco: Path) -> Records:
    """Masks of sam-tiny for the ground-truth boxes of all images."""
    predictor = SamPredictor(load_sam("sam-tiny"))
    found: Records = []
    for sample in annotated_samples(coco / "annotations/instances_val2017.json", images=coco / "val2017"):
        if len(sample.prompts):
            predictor.set_image(sample.open())
            found += mask_results(sample, predictor.segment(sample.prompts))
    return found


def repeated(content: dict[str, Any], results: Records, times: int) -> tuple[dict[str, Any], Records]:
    """Repeat the data set and its results."""
    step = max(image["id"] for image in content["images"]) + 1
    images = [{**image, "id": image["id"] + k * step} for k in range(times) for image in content["images"]]
    annotations = [
        {**one, "image_id": one["image_id"] + k * step} for k in range(times) for one in content["annotations"]
    ]
    moved = [{**one, "image_id": one["image_id"] + k * step} for k in range(times) for one in results]
    numbered = [{**one, "id": number} for number, one in enumerate(annotations, start=1)]
    return {**content, "images": images, "annotations": numbered}, moved


def by_pycocotools(path: Path, results: Records) -> float:
    """AP in percent, by the reference evaluator."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes([dict(one) for one in results]), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(100 * evaluation.stats[0])


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/data/evaluator.json"))
    parser.add_argument("--times", type=int, default=50)
    arguments = parser.parse_args()
    annotations = arguments.coco / "annotations/instances_val2017.json"
    content = json.loads(annotations.read_text(encoding="utf-8"))
    content, results = repeated(content, predictions(arguments.coco), arguments.times)
    scores: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        before = peak_gigabytes()

        def ours() -> None:
            scores["ours"] = Truth(path).score(results).ap

        def reference() -> None:
            scores["pycocotools"] = by_pycocotools(path, results)

        seconds = timed(ours)
        peak = peak_gigabytes()
        slow = timed(reference)
    found = {
        "machine": machine(),
        "images": len(content["images"]),
        "masks": len(results),
        "seconds": seconds,
        "pycocotools_seconds": slow,
        "gigabytes": peak - before,
        "ap": scores,
    }
    print(found)
    write_json(arguments.output, found)


if __name__ == "__main__":
    main()
