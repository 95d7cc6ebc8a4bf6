"""95% intervals of mean IoU and AP: bootstraps over images, because prompts of one image depend on each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixqsam.evaluation.coco import Truth

_LEVELS = (2.5, 97.5)
_DRAWS = 1000
# An AP of drawn images takes a part of a second.
_AP_DRAWS = 100


def find_mean_interval(by_image: Sequence[Sequence[float]], *, draws: int = _DRAWS) -> tuple[float, float] | None:
    """The interval of the mean over all prompts; None for fewer than two images.

    Args:
        by_image: values of the prompts of each image.
        draws: how often images are drawn.
    """
    if len(by_image) < 2:
        return None
    drawn = _draw(len(by_image), draws)
    sums, counts = (np.array([measure(image) for image in by_image], dtype=np.float64) for measure in (sum, len))
    return _ends(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))


def find_share_interval(
    truth: Truth,
    results: Sequence[dict[str, Any]],
    reference: Sequence[dict[str, Any]],
    *,
    images: Sequence[int],
    draws: int = _AP_DRAWS,
) -> tuple[float, float] | None:
    """The interval of a model's share of another model's AP; None for fewer than two images.

    Args:
        truth: the annotations.
        results: the model's COCO results.
        reference: those of the other model.
        images: ids of the images.
        draws: how often images are drawn; draws on which the other model has no AP are left out.
    """
    if len(images) < 2:
        return None
    shares = []
    for places in _draw(len(images), draws):
        drawn = [images[place] for place in places]
        whole = truth.score_drawn(reference, images=drawn)
        if whole > 0:
            shares.append(max(0.0, truth.score_drawn(results, images=drawn)) / whole)
    return _ends(np.array(shares)) if shares else None


def _draw(count: int, draws: int) -> NDArray[np.int64]:
    """Draw places of images with replacement, [draws, count]."""
    return np.random.default_rng(0).integers(0, count, (draws, count))


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, _LEVELS)
    return float(low), float(high)
