"""AP on images that a bootstrap drew: how much of it is chance."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from mixqsam.evaluation.coco import Truth

# Image id → its COCO results.
Results = dict[int, list[dict[str, Any]]]


def draw_images(content: dict[str, Any], images: list[int]) -> dict[str, Any]:
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


def score_drawn(content: dict[str, Any], results: Results, images: list[int], folder: Path) -> float:
    """AP on the drawn images."""
    path = folder / "drawn.json"
    path.write_text(json.dumps(draw_images(content, images)), encoding="utf-8")
    moved = [{**r, "image_id": place} for place, image in enumerate(images) for r in results.get(image, [])]
    return Truth(path).score(moved).ap
