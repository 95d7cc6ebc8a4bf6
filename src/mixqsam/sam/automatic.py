"""Segment everything: a grid of points prompts the model, and what it is sure of, and not the same twice, is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mixqsam.boxes import Detections, suppress
from mixqsam.prediction import Predictor
from mixqsam.prompts import Array, Prompts, point_grid
from mixqsam.sam.automatic_options import Automatic

__all__ = ["Automatic", "Masks", "find_masks", "join_masks", "segment_everything", "split_grid"]

# Points prompted at once: their masks are held at the image's size, a byte for each pixel.
_POINTS_AT_ONCE = 64
_MASK_BYTES = 256_000_000


@dataclass(frozen=True)
class Masks:
    """Masks of one image.

    Attributes:
        masks: [n, height, width].
        scores: [n], predicted IoU; the surest first.
        stability: [n], area of a mask cut at +1 by that of the mask cut at −1.
        points: [n, 2], x and y of the point that each mask was made from.
        choices: [n], which of the point's three masks it is: 1, 2 or 3.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    stability: NDArray[np.float64]
    points: Array
    choices: NDArray[np.int64]

    def records(self, *, rle: bool = False) -> list[dict[str, Any]]:
        """One dictionary for each mask, with the keys of segment-anything's generator.

        Args:
            rle: `segmentation` is COCO's uncompressed run-length encoding; otherwise an array of booleans.
        """
        height, width = self.masks.shape[1:]
        left, top, right, bottom = _boxes(self.masks).T.tolist() if len(self.masks) else ([], [], [], [])
        return [
            {
                "segmentation": encode_runs(mask) if rle else mask,
                "area": int(mask.sum()),
                # As Meta's: the last pixel less the first.
                "bbox": [left[i], top[i], right[i] - left[i] - 1, bottom[i] - top[i] - 1],
                "predicted_iou": float(self.scores[i]),
                "point_coords": [self.points[i].tolist()],
                "stability_score": float(self.stability[i]),
                "crop_box": [0, 0, width, height],
            }
            for i, mask in enumerate(self.masks)
        ]


def encode_runs(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """A mask [height, width] as COCO's uncompressed runs: column by column, the first one of background."""
    flat = np.concatenate([[False], mask.T.reshape(-1), [False]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], ends, [mask.size]])).tolist()
    # A mask that reaches the end has an empty run behind it.
    return {"size": list(mask.shape), "counts": runs[:-1] if runs[-1] == 0 and len(runs) > 1 else runs}


def segment_everything(
    predictor: Predictor, image: Image.Image | NDArray[Any], options: Automatic | None = None
) -> Masks:
    """All masks that a model finds in an image: three for each point of a grid, filtered and without doubles.

    Args:
        predictor: of any runtime.
        image: a Pillow image, or uint8 [height, width, 3].
        options: the grid and the filters; by default those of Meta's generator. Crops and the removal of small regions
            are not done.
    """
    options = options or Automatic()
    predictor.set_image(image)
    assert predictor.original_size is not None  # noqa: S101
    groups = split_grid(*predictor.original_size, options=options)
    return join_masks([find_masks(predictor, points, options) for points in groups], options)


def split_grid(height: int, width: int, *, options: Automatic, at_once: int = _POINTS_AT_ONCE) -> list[Prompts]:
    """Split the grid of an image into groups of points that are prompted at once.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        options: the grid.
        at_once: maximum number of points in a group; large images have smaller groups.
    """
    points = point_grid(width=width, height=height, side=options.side)
    step = max(1, min(at_once, _MASK_BYTES // (3 * height * width)))
    return [points.take(np.arange(start, min(start + step, len(points)))) for start in range(0, len(points), step)]


def find_masks(predictor: Predictor, points: Prompts, options: Automatic) -> Masks:
    """What some points give in the image that a predictor has, and the filters leave; with doubles, in their order.

    Args:
        predictor: of any runtime, with an image.
        points: one for each prompt.
        options: the filters.
    """
    found = predictor.segment(points, multimask=True)
    rows, columns = found.visible
    steady = _stability(found.logits[..., :rows, :columns])
    sure = (found.scores >= options.predicted_iou) & (steady >= options.stability) & found.masks.any(axis=(2, 3))
    prompts, choices = np.nonzero(sure)
    assert points.points is not None  # noqa: S101  (a grid has points)
    return Masks(found.masks[sure], found.scores[sure], steady[sure], points.points[prompts, 0], choices + 1)


def join_masks(found: Sequence[Masks], options: Automatic) -> Masks:
    """Join what groups of points gave, without doubles; the surest first."""
    masks, scores, stability, points, choices = (
        np.concatenate([getattr(some, field.name) for some in found]) for field in fields(Masks)
    )
    stays = _suppress(_boxes(masks), scores, limit=options.overlap)
    return Masks(masks[stays], scores[stays], stability[stays], points[stays], choices[stays])


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
