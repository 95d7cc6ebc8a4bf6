"""Estimate the random share of differences in AP with a paired bootstrap over the images of coco-mini.

    python -m benchmarks.ap_noise --coco ../shared/data/coco-mini --output docs/data/ap_noise.json

Compares float, uniform and mixed models (defaults) at four budgets; 200 draws of 100 images. Takes about 6 minutes on
2 cores with the cache of benchmarks.allocation_experiment.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.allocation_experiment import BUDGETS, Experiment
from mixqsam.allocation.budget import Budget
from mixqsam.cli.bars import ProgressBars
from mixqsam.evaluation.coco import Truth, mask_results
from mixqsam.files import Cache, write_json
from mixqsam.pipeline.options import AllocationOptions, Session
from mixqsam.pipeline.stages import run_allocation
from mixqsam.plan import BitPlan
from mixqsam.sam.predictor import SamPredictor

Results = dict[int, list[dict[str, Any]]]


def results_of(experiment: Experiment, plan: BitPlan) -> Results:
    """COCO results of a plan, by image."""
    predictor = SamPredictor(experiment.quantized(plan))
    found: Results = {}
    for sample in experiment.samples:
        if len(sample.prompts):
            predictor.set_image(sample.open())
            found[sample.image_id] = mask_results(sample, predictor.segment(sample.prompts))
    return found


def drawn(content: dict[str, Any], images: list[int]) -> dict[str, Any]:
    """Make the annotations of the drawn images; each draw is a separate image."""
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    records = {image["id"]: image for image in content["images"]}
    annotations = [{**a, "image_id": place} for place, image in enumerate(images) for a in by_image[image]]
    return {
        **content,
        "images": [{**records[image], "id": place} for place, image in enumerate(images)],
        "annotations": [{**a, "id": number} for number, a in enumerate(annotations, start=1)],
    }


def score(content: dict[str, Any], results: Results, images: list[int], folder: Path) -> float:
    """AP on the drawn images."""
    path = folder / "drawn.json"
    path.write_text(json.dumps(drawn(content, images)), encoding="utf-8")
    moved = [{**r, "image_id": place} for place, image in enumerate(images) for r in results.get(image, [])]
    return Truth(path).score(moved).ap


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/data/ap_noise.json"))
    parser.add_argument("--cache", type=Path, default=Path("out/experiment-cache"))
    parser.add_argument("--draws", type=int, default=200)
    arguments = parser.parse_args()
    session = Session(Cache(arguments.cache), ProgressBars())
    experiment = Experiment(arguments.coco, images=32, session=session, limit=None)
    analysis = experiment.analysis(images=None)
    found = {"float": results_of(experiment, analysis.costs.float_plan)}
    for budget in BUDGETS:
        for name, text in (("uniform", f"uniform:{budget}"), ("mixed", budget)):
            allocation = run_allocation(analysis, Budget.parse(text), options=AllocationOptions(), session=session)
            found[f"{name} {budget}"] = results_of(experiment, allocation.plan)
    content = json.loads(experiment.annotations.read_text(encoding="utf-8"))
    ids = [image["id"] for image in content["images"]]
    rng = np.random.default_rng(0)
    draws = [rng.choice(ids, len(ids)).tolist() for _ in range(arguments.draws)]
    aps = {
        name: np.array([score(content, results, images, arguments.cache) for images in draws])
        for name, results in found.items()
    }
    rows = {}
    for budget in BUDGETS:
        for first, second in (("uniform", "float"), ("mixed", "float"), ("mixed", "uniform")):
            other = second if second == "float" else f"{second} {budget}"
            difference = aps[f"{first} {budget}"] - aps[other]
            low, middle, high = np.percentile(difference, [2.5, 50, 97.5])
            rows[f"{first} − {second}, {budget}"] = {"low": low, "median": middle, "high": high}
    write_json(arguments.output, {"draws": arguments.draws, "rows": rows})
    print(rows)


if __name__ == "__main__":
    main()
