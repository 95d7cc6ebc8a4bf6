"""Semantic segmentation: masks painted into a label map, and their mean IoU with the true one."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixqsam.data.labelmaps import UNLABELLED, LabelMap


@dataclass(frozen=True)
class SemanticScores:
    """Scores of semantic segmentation over all images.

    Attributes:
        miou: mean IoU over classes that the true maps have, in percent.
        accuracy: share of labelled pixels with the right class, in percent.
        classes: class → its IoU in percent.
        images: number of evaluated images.
        prompts: number of regions that prompted the model.
    """

    miou: float
    accuracy: float
    classes: Mapping[int, float]
    images: int
    prompts: int = 0


def paint(
    masks: NDArray[np.bool_], scores: NDArray[np.float32], classes: NDArray[np.uint8], *, ground: LabelMap
) -> LabelMap:
    """Paint masks [n, height, width] with their classes over a ground, in ascending order of their scores."""
    painted = ground.copy()
    for index in np.argsort(scores, kind="stable"):
        painted[masks[index]] = classes[index]
    return painted


class Confusion:
    """Counts of true and predicted classes, added image by image; memory does not grow with the images."""

    def __init__(self) -> None:
        self._counts = np.zeros((256, 256), dtype=np.int64)
        self._images = 0

    def add(self, truth: LabelMap, predicted: LabelMap) -> None:
        """Count an image; unlabelled pixels of the truth are ignored, those of the prediction count as wrong."""
        known = truth != UNLABELLED
        pairs = truth[known].astype(np.int64) * 256 + predicted[known]
        self._counts += np.bincount(pairs, minlength=256 * 256).reshape(256, 256)
        self._images += 1

    def scores(self) -> SemanticScores:
        """Compute mean IoU, accuracy and the IoU of each class."""
        right = self._counts.diagonal()
        either = self._counts.sum(axis=0) + self._counts.sum(axis=1) - right
        present = np.flatnonzero(self._counts.sum(axis=1))
        ious = {int(index): float(100 * right[index] / either[index]) for index in present}
        total = max(1, int(self._counts.sum()))
        mean = float(np.mean(list(ious.values()))) if ious else 0.0
        return SemanticScores(mean, float(100 * right.sum() / total), ious, self._images)
