"""Segment everything: a grid of points prompts the model, and what it is sure of, and not the same twice, is kept."""

from dataclasses import dataclass
from typing import Any

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
        stability: [n], area of a mask cut at +1 by that of the mask cut at −1.
        points: [n, 2], x and y of the point that each mask was made from.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    stability: NDArray[np.float64]
    points: Array

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
    height, width = predictor.original_size
    points = point_grid(width=width, height=height, side=options.side)
    masks, scores, boxes, steadiness, places = [], [], [], [], []
    for start in range(0, len(points), _POINTS_AT_ONCE):
        some = points.take(np.arange(start, min(start + _POINTS_AT_ONCE, len(points))))
        found = predictor.segment(some, multimask=True)
        rows, columns = found.visible
        steady = _stability(found.logits[..., :rows, :columns])
        sure = (found.scores >= options.predicted_iou) & (steady >= options.stability)
        kept = found.masks[sure]
        area = kept.any(axis=(1, 2))
        masks.append(kept[area])
        scores.append(found.scores[sure][area])
        boxes.append(_boxes(kept[area]))
        steadiness.append(steady[sure][area])
        assert some.points is not None  # noqa: S101
        places.append(some.points[:, 0][np.nonzero(sure)[0]][area])
    all_masks, all_scores = np.concatenate(masks), np.concatenate(scores)
    stays = _suppress(np.concatenate(boxes), all_scores, limit=options.overlap)
    return Masks(all_masks[stays], all_scores[stays], np.concatenate(steadiness)[stays], np.concatenate(places)[stays])


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
