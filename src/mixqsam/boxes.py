"""Boxes of one image: thresholds, class-wise suppression, limits.

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
        labels: [n] whole numbers: the detector's own, or categories.
    """

    boxes: Array
    scores: Array
    labels: Array

    @classmethod
    def of(cls, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike) -> "Detections":
        """From lists; without boxes too."""
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        return cls(corners, np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.scores)

    def pick(self, index: NDArray[Any] | Sequence[bool]) -> "Detections":
        """Some of them, by index or by a boolean for each."""
        chosen = np.asarray(index, dtype=bool) if isinstance(index, list) else index
        return Detections(self.boxes[chosen], self.scores[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Selection:
    """Which boxes of a detector become prompts.

    Attributes:
        score: least score.
        top: at most so many for each image, the best.
        nms: IoU above which the weaker of two boxes of one class goes; 1 keeps all.
    """

    score: float = 0.05
    top: int = 100
    nms: float = 1.0


@dataclass(frozen=True)
class Wishes:
    """What a user wants of a selection; None for what is usual for the detector."""

    score: float | None = None
    top: int | None = None
    nms: float | None = None

    def over(self, usual: Selection) -> Selection:
        """The usual selection with what is wanted in its place."""
        return Selection(
            usual.score if self.score is None else self.score,
            usual.top if self.top is None else self.top,
            usual.nms if self.nms is None else self.nms,
        )


def select(found: Detections, selection: Selection, *, width: int, height: int) -> Detections:
    """Boxes clipped to the image, without empty ones, filtered, strongest first."""
    boxes = found.boxes.clip(0, np.tile([width, height], 2))
    keep = (found.scores >= selection.score) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    kept = Detections(boxes, found.scores, found.labels).pick(keep)
    kept = kept.pick(np.argsort(-kept.scores, kind="stable"))
    if selection.nms < 1:
        kept = kept.pick(suppress(kept, selection.nms))
    return kept.pick(np.arange(min(len(kept), selection.top)))


def suppress(found: Detections, limit: float) -> NDArray[np.int64]:
    """Class-wise greedy non-maximum suppression: indices of what stays, strongest first.

    Args:
        found: boxes.
        limit: a box goes if its IoU with a stronger one of its class is above this.
    """
    order = np.argsort(-found.scores, kind="stable")
    ious = box_ious(found.boxes, found.boxes)
    alike = found.labels[:, None] == found.labels[None, :]
    stays: list[int] = []
    for index in order.tolist():
        if not any(alike[index, other] and ious[index, other] > limit for other in stays):
            stays.append(index)
    return np.array(stays, dtype=np.int64)


def box_ious(first: Array, second: Array) -> Array:
    """IoU of every box [n, 4] with every other [m, 4]: [n, m]; boxes without area have none."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1) for boxes in (first, second)]
    either = areas[0][:, None] + areas[1][None, :] - both
    ious: Array = np.where(either > 0, both / np.maximum(either, 1e-12), 0.0)
    return ious
