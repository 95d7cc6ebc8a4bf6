"""Intervals of a mean and of a share of AP: known cases, and images that count twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixqsam.evaluation.coco import Truth, encode_masks
from mixqsam.evaluation.interval import find_mean_interval, find_share_interval


def test_the_interval_of_a_mean_is_that_of_statistics() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.1, 400)
    found = find_mean_interval([[float(value)] for value in values])
    assert found is not None
    # The mean of 400 normal values deviates by 0.1 / √400.
    half = 1.96 * 0.1 / 20
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)
    assert find_mean_interval([[0.5], [0.5, 0.5]]) == (0.5, 0.5)
    # Images are drawn whole: prompts of one image do not make the interval smaller.
    assert find_mean_interval([[0.0] * 50, [1.0] * 50]) == (0.0, 1.0)
    assert find_mean_interval([[0.3, 0.4]]) is None


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    instance = {"category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0, "segmentation": [square]}
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 40} for i in (5, 6, 7)],
        "annotations": [{"id": i, "image_id": i, **instance} for i in (5, 6, 7)],
        "categories": [{"id": 1, "name": "square"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return Truth(path)


def result(image: int, *, shift: int) -> dict[str, Any]:
    mask = np.zeros((1, 40, 40), dtype=bool)
    mask[0, 10:30, 10 + shift : 30 + shift] = True
    return {"image_id": image, "category_id": 1, "segmentation": encode_masks(mask)[0], "score": 0.5}


def test_an_image_that_is_drawn_twice_counts_twice(truth: Truth) -> None:
    right, wrong = result(5, shift=0), result(6, shift=20)
    assert truth.score_drawn([right, wrong], images=[5]) == pytest.approx(100)
    assert truth.score_drawn([right, wrong], images=[5, 6, 7]) == pytest.approx(
        truth.score([right, wrong]).ap, abs=1e-9
    )
    # Of four objects, three are found.
    assert truth.score_drawn([right], images=[5, 5, 5, 6]) == pytest.approx(75, abs=1.5)
    assert truth.score_drawn([right], images=[5, 6, 6, 6]) == pytest.approx(25, abs=1.5)


def test_the_interval_of_a_share_of_the_ap(truth: Truth) -> None:
    whole = [result(image, shift=0) for image in (5, 6, 7)]
    assert find_share_interval(truth, whole, whole, images=[5, 6, 7], draws=20) == (1.0, 1.0)
    found = find_share_interval(truth, whole[:1], whole, images=[5, 6, 7], draws=60)
    assert found is not None
    assert found[0] < 0.34 < found[1]
    assert find_share_interval(truth, whole, whole, images=[5]) is None
    # Without an AP of the reference there is no share.
    assert find_share_interval(truth, whole, [], images=[5, 6], draws=5) is None
