"""Segment everything: a grid of points prompts the model, and what it is sure of, and not the same twice, is kept."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mixqsam.boxes import Detections, suppress
from mixqsam.prediction import Predictor
from mixqsam.prompts import Array, point_grid
from mixqsam.sam.automatic_options import Automatic

__all__ = ["Automatic", "Masks", "segment_everything"]

# Points prompted at once: their masks are held at the image's size.
_POINTS_AT_ONCE = 64


@dataclass(frozen=True)
class Masks:
    """Masks of one image.

    Attributes:
        masks: [n, height, width].
        scores: [n], predicted IoU; the surest first.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]


def segment_everything(predictor: Predictor, image: Image.Image, options: Automatic) -> Masks:
    """All masks that a model finds in an image: three for each point of a grid, filtered and without doubles."""
    predictor.set_image(image)
    points = point_grid(width=image.width, height=image.height, side=options.side)
    masks, scores, boxes = [], [], []
    for start in range(0, len(points), _POINTS_AT_ONCE):
        some = points.take(np.arange(start, min(start + _POINTS_AT_ONCE, len(points))))
        found = predictor.segment(some, multimask=True)
        height, width = found.visible
        steady = _stability(found.logits[..., :height, :width])
        sure = (found.scores >= options.predicted_iou) & (steady >= options.stability)
        kept = found.masks[sure]
        area = kept.any(axis=(1, 2))
        masks.append(kept[area])
        scores.append(found.scores[sure][area])
        boxes.append(_boxes(kept[area]))
    all_masks, all_scores = np.concatenate(masks), np.concatenate(scores)
    stays = _suppress(np.concatenate(boxes), all_scores, limit=options.overlap)
    return Masks(all_masks[stays], all_scores[stays])


def _stability(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Area above +1 by area above −1: how little a mask depends on where it is cut."""
    inner, outer = ((logits > cut).sum(axis=(-2, -1)) for cut in (1.0, -1.0))
    steady: NDArray[np.float64] = inner / np.maximum(outer, 1)
    return steady


def _boxes(masks: NDArray[np.bool_]) -> Array:
    """The box around each mask; all masks have a pixel."""
    boxes = np.zeros((len(masks), 4))
    for axis, (first, last) in ((1, (0, 2)), (2, (1, 3))):
        line: NDArray[np.bool_] = np.asarray(masks.any(axis=axis))
        boxes[:, first] = line.argmax(axis=1)
        boxes[:, last] = line.shape[1] - line[:, ::-1].argmax(axis=1)
    return boxes


def _suppress(boxes: Array, scores: NDArray[np.float32], *, limit: float) -> NDArray[np.int64]:
    """Indices of what stays, the surest first."""
    return suppress(Detections.of(boxes, scores, np.zeros(len(scores))), limit)
