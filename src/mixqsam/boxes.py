"""Boxes of one image: thresholds, class-wise suppression, maximum number.

See docs/method.md, “Instance segmentation”.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixqsam.prompts import Array


@dataclass(frozen=True)
class Detections:
    """Boxes of one image.

    Attributes:
        boxes: [n, 4] float64, x1, y1, x2, y2 in pixels.
        scores: [n] float64.
        labels: [n] whole numbers: labels of the detector, or categories.
    """

    boxes: Array
    scores: Array
    labels: Array

    @classmethod
    def of(cls, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike) -> "Detections":
        """Make detections from lists, which may be empty."""
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        return cls(corners, np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.scores)

    def pick(self, index: NDArray[Any] | Sequence[bool]) -> "Detections":
        """Select detections by index, or by a boolean for each."""
        chosen = np.asarray(index, dtype=bool) if isinstance(index, list) else index
        return Detections(self.boxes[chosen], self.scores[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Selection:
    """Which boxes of a detector become prompts.

    Attributes:
        score: minimum score.
        top: maximum number for each image; the best are kept.
        nms: IoU above which the weaker of two boxes of one class is removed; 1 keeps all.
    """

    score: float = 0.05
    top: int = 100
    nms: float = 1.0


@dataclass(frozen=True)
class SelectionOverrides:
    """Values that replace those of a selection; None keeps the detector's default."""

    score: float | None = None
    top: int | None = None
    nms: float | None = None

    def apply(self, defaults: Selection) -> Selection:
        """Replace values of a selection."""
        return Selection(
            defaults.score if self.score is None else self.score,
            defaults.top if self.top is None else self.top,
            defaults.nms if self.nms is None else self.nms,
        )


def select(detections: Detections, selection: Selection, *, width: int, height: int) -> Detections:
    """Clip boxes to the image, remove empty and weak ones, and sort them by score."""
    boxes = detections.boxes.clip(0, np.tile([width, height], 2))
    is_selected = (detections.scores >= selection.score) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    selected = Detections(boxes, detections.scores, detections.labels).pick(is_selected)
    selected = selected.pick(np.argsort(-selected.scores, kind="stable"))
    if selection.nms < 1:
        selected = selected.pick(suppress(selected, selection.nms))
    return selected.pick(np.arange(min(len(selected), selection.top)))


def suppress(detections: Detections, limit: float) -> NDArray[np.int64]:
    """Class-wise greedy non-maximum suppression: indices of the remaining boxes, strongest first.

    Args:
        detections: boxes, scores and labels.
        limit: a box is removed if its IoU with a stronger one of its class is above this.
    """
    order = np.argsort(-detections.scores, kind="stable")
    ious = box_ious(detections.boxes, detections.boxes)
    same_label = detections.labels[:, None] == detections.labels[None, :]
    survivors: list[int] = []
    for index in order.tolist():
        if not any(same_label[index, stronger] and ious[index, stronger] > limit for stronger in survivors):
            survivors.append(index)
    return np.array(survivors, dtype=np.int64)


def box_ious(first: Array, second: Array) -> Array:
    """IoU of every box [n, 4] with every other [m, 4]: [n, m]; 0 for boxes without area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    intersection = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - intersection
    ious: Array = np.where(union > 0, intersection / np.maximum(union, 1e-12), 0.0)
    return ious
