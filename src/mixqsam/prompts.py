"""Prompts of one image, in pixels of the image as it is displayed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixqsam.errors import AnnotationError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prompts:
    """P prompts: each a box, or the same number of points, or both; or nothing but a mask to start from.

    Attributes:
        boxes: [P, 4] as x1, y1, x2, y2; or None.
        points: [P, K, 2] as x, y; or None.
        labels: [P, K], 1 for the object and 0 for the background; given with points.
        masks: [P, 1, 4h, 4w], low-resolution logits to start from; or None.
    """

    boxes: Array | None = None
    points: Array | None = None
    labels: NDArray[np.int64] | None = None
    masks: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        for values in (self.boxes, self.points, self.masks):
            if values is not None:
                return len(values)
        return 0

    def take(self, indices: NDArray[np.int64]) -> "Prompts":
        """Select prompts, in the order of `indices`."""
        return Prompts(
            boxes=None if self.boxes is None else self.boxes[indices],
            points=None if self.points is None else self.points[indices],
            labels=None if self.labels is None else self.labels[indices],
            masks=None if self.masks is None else self.masks[indices],
        )

    def at_most(self, count: int, *, seed: int) -> "Prompts":
        """At most `count` prompts; `seed` decides a random choice of more."""
        if len(self) <= count:
            return self
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.take(np.sort(chosen))


def point_grid(*, width: int, height: int, side: int) -> Prompts:
    """Side × side points at the centres of equal cells, one prompt each."""
    x = (np.arange(side) + 0.5) / side * width
    y = (np.arange(side) + 0.5) / side * height
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 1, 2)
    return Prompts(points=points, labels=np.ones((side * side, 1), dtype=np.int64))


def point_prompt(points: Array, *, width: int, height: int, source: str) -> Prompts:
    """Make one prompt of K points, each x, y, label: shape [K, 3].

    Raises:
        AnnotationError: a number is not finite, a point lies outside the image, or a label is neither 1 nor 0; `source`
            names the points in the message.
    """
    if not np.isfinite(points).all():
        raise AnnotationError(f"{source}: a point holds NaN or infinity.")
    if not ((points[:, :2] >= 0) & (points[:, :2] <= (width, height))).all():
        raise AnnotationError(f"{source}: a point lies outside the image of {width}×{height} pixels.")
    if not np.isin(points[:, 2], (0, 1)).all():
        raise AnnotationError(f"{source}: a label is neither 1 (object) nor 0 (background).")
    return Prompts(points=points[None, :, :2], labels=points[None, :, 2].astype(np.int64))


def clip_boxes(boxes: Array, *, width: int, height: int, source: str) -> Array:
    """Clip boxes to the image.

    Raises:
        AnnotationError: a box is not finite, has no area, or lies outside the image; `source` names the boxes in the
            message.
    """
    if not np.isfinite(boxes).all():
        raise AnnotationError(f"{source}: a box holds NaN or infinity.")
    limits = np.array([width, height, width, height], dtype=np.float64)
    clipped = np.clip(boxes, 0, limits)
    empty = (clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1])
    if empty.any():
        first = boxes[int(empty.argmax())]
        box = [round(float(v), 2) for v in first]
        swapped = [f"{a}1 > {a}2" for a, low, high in (("x", 0, 2), ("y", 1, 3)) if first[low] > first[high]]
        if swapped:
            right = [min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])]
            raise AnnotationError(
                f"{source}: box {box} (x1, y1, x2, y2) has {' and '.join(swapped)}: corners are swapped; write "
                f"{','.join(f'{value:g}' for value in right)}."
            )
        raise AnnotationError(
            f"{source}: box {box} (x1, y1, x2, y2) has no area inside the image of {width}×{height} pixels. "
            "Check that boxes belong to this image and are in its pixels."
        )
    return clipped


def describe_basis(images: int, prompts: int, kind: str) -> str:
    """Describe the images and prompts of a measurement."""
    of_kind = f" ({kind})" if kind else ""
    plural = ["" if count == 1 else "s" for count in (images, prompts)]
    return f"{images:,} image{plural[0]} with {prompts:,} prompt{plural[1]}{of_kind}"
