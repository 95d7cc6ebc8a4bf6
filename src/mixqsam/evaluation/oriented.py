"""Oriented detection: rectangles from masks, rotated IoU, suppression and average precision.

See docs/method.md, “Oriented detection”.

Geometry is shapely's (`pip install 'mixqsam[oriented]'`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mixqsam.data.dota import OrientedObject
from mixqsam.errors import InputError
from mixqsam.evaluation.oriented_scores import OrientedScores
from mixqsam.prompts import Array

try:
    import shapely
except ImportError as error:
    raise InputError("Oriented detection needs shapely; install it with `pip install 'mixqsam[oriented]'`.") from error

IOUS = tuple(np.arange(0.5, 1.0, 0.05).round(2).tolist())


@dataclass(frozen=True)
class OrientedResult:
    """One rotated box of one image.

    Attributes:
        image: name of the image.
        corners: [4, 2], in pixels.
        category: name of the category.
        score: the detector's, or the predicted IoU.
    """

    image: str
    corners: Array
    category: str
    score: float


def mask_rectangle(mask: NDArray[np.bool_]) -> Array | None:
    """The rectangle of least area around the largest connected part of a mask: [4, 2]; None for an empty mask."""
    labels, count = ndimage.label(mask)
    if not count:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    rows, columns = np.nonzero(labels == sizes.argmax())
    first = ndimage.minimum(columns, rows, np.unique(rows))
    last = ndimage.maximum(columns, rows, np.unique(rows))
    ends = np.unique(rows)
    # A pixel is a square: its corners are what has to be enclosed.
    x = np.concatenate([first, first, last + 1, last + 1])
    y = np.concatenate([ends, ends + 1, ends, ends + 1])
    points = np.stack([x, y], axis=1)
    rectangle = shapely.minimum_rotated_rectangle(shapely.multipoints(points))
    corners: Array = np.asarray(shapely.get_coordinates(rectangle)[:4], dtype=np.float64)
    return corners


def rotated_ious(first: Array, second: Array) -> Array:
    """IoU of every quadrilateral [n, 4, 2] with every other [m, 4, 2]: [n, m]. Corners may come in any direction."""
    ones, others = _polygons(first), _polygons(second)
    ious = np.zeros((len(first), len(second)))
    if not ious.size:
        return ious
    tree = shapely.STRtree(others)
    left, right = tree.query(ones)
    both = shapely.area(shapely.intersection(ones[left], others[right]))
    either = shapely.area(ones[left]) + shapely.area(others[right]) - both
    ious[left, right] = np.where(either > 0, both / np.maximum(either, 1e-12), 0.0)
    return ious


def _polygons(corners: Array) -> NDArray[np.object_]:
    """Convex hulls: a quadrilateral whose corners are out of order becomes what it encloses."""
    points: NDArray[np.object_] = shapely.convex_hull(shapely.multipoints(np.asarray(corners).reshape(-1, 4, 2)))
    return points


def suppress_rotated(results: Sequence[OrientedResult], *, limit: float) -> list[OrientedResult]:
    """Suppress boxes of one image greedily, class by class: of two with an IoU above `limit`, remove the weaker."""
    selected: list[OrientedResult] = []
    for category in dict.fromkeys(result.category for result in results):
        ordered = sorted((r for r in results if r.category == category), key=lambda result: -result.score)
        ious = rotated_ious(*[np.stack([result.corners for result in ordered])] * 2)
        stays: list[int] = []
        for index in range(len(ordered)):
            if not any(ious[index, other] > limit for other in stays):
                stays.append(index)
        selected += [ordered[index] for index in stays]
    return selected


def score_oriented(truth: Mapping[str, Sequence[OrientedObject]], results: Sequence[OrientedResult]) -> OrientedScores:
    """Score results as DOTA's evaluation does.

    Results are taken strongest first; each takes the object of its image and category with the largest IoU. It is
    found if the IoU is above the threshold and the object is not taken yet; a difficult object counts neither way.

    Args:
        truth: image's name → its objects.
        results: of all images; categories that no object has are left out.
    """
    categories = sorted({target.category for targets in truth.values() for target in targets if not target.difficult})
    areas = np.zeros((len(categories), len(IOUS)))
    points = np.zeros(len(categories))
    for row, category in enumerate(categories):
        matched = _match([result for result in results if result.category == category], truth, category)
        for column, threshold in enumerate(IOUS):
            recall, precision = _curve(matched, threshold)
            areas[row, column] = _area_under(recall, precision)
            if column == 0:
                points[row] = _eleven_points(recall, precision)
    if not categories:
        return OrientedScores(0.0, 0.0, 0.0, {})
    return OrientedScores(
        float(100 * points.mean()),
        float(100 * areas[:, 0].mean()),
        float(100 * areas.mean()),
        {category: float(100 * value) for category, value in zip(categories, points, strict=True)},
    )


@dataclass(frozen=True)
class _Matches:
    """Matches of one category: results in descending order of score, each with the object of the largest IoU.

    Attributes:
        ious: [n], the largest IoU.
        objects: [n], number of that object; −1 for none.
        difficult: [objects], whether the object is difficult.
    """

    ious: Array
    objects: NDArray[np.int64]
    difficult: NDArray[np.bool_]


def _match(results: Sequence[OrientedResult], truth: Mapping[str, Sequence[OrientedObject]], category: str) -> _Matches:
    ordered = sorted(results, key=lambda result: -result.score)
    ious, objects = np.zeros(len(ordered)), np.full(len(ordered), -1, dtype=np.int64)
    difficult: list[bool] = []
    for image, all_targets in truth.items():
        targets = [target for target in all_targets if target.category == category]
        rows = [index for index, result in enumerate(ordered) if result.image == image]
        if targets and rows:
            overlaps = rotated_ious(
                np.stack([ordered[index].corners for index in rows]), np.stack([target.corners for target in targets])
            )
            ious[rows] = overlaps.max(axis=1)
            objects[rows] = len(difficult) + overlaps.argmax(axis=1)
        difficult += [target.difficult for target in targets]
    return _Matches(ious, objects, np.array(difficult, dtype=bool))


def _curve(matches: _Matches, threshold: float) -> tuple[Array, Array]:
    """Recall and precision after each result."""
    taken = np.zeros(len(matches.difficult), dtype=bool)
    right, wrong = np.zeros(len(matches.ious)), np.zeros(len(matches.ious))
    for index, (iou, number) in enumerate(zip(matches.ious, matches.objects, strict=True)):
        if iou <= threshold:
            wrong[index] = 1
        elif not matches.difficult[number]:
            right[index], wrong[index] = (0, 1) if taken[number] else (1, 0)
            taken[number] = True
    hits, misses = right.cumsum(), wrong.cumsum()
    total = max(1, int((~matches.difficult).sum()))
    return hits / total, hits / np.maximum(hits + misses, 1e-12)


def _eleven_points(recall: Array, precision: Array) -> float:
    """VOC 07: the mean of the largest precision at recalls of 0, 0.1, …, 1 and more."""
    # The published evaluation has exactly these floats; some are slightly above a tenth.
    levels = np.arange(0.0, 1.1, 0.1)
    return float(np.mean([precision[recall >= level].max(initial=0.0) for level in levels]))


def _area_under(recall: Array, precision: Array) -> float:
    """VOC 10: the area under the precision made monotone."""
    recall, precision = np.concatenate([[0.0], recall, [1.0]]), np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(((recall[1:] - recall[:-1]) * envelope[1:]).sum())
