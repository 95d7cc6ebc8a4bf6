"""Segment everything: a grid of points prompts the model, and what it is sure of, and not the same twice, is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mixqsam.boxes import Detections, suppress
from mixqsam.pixels import from_input
from mixqsam.prediction import Candidates, Predictor
from mixqsam.progress import Progress, Silent
from mixqsam.prompts import Array, Prompts, point_grid
from mixqsam.sam.automatic_options import Automatic
from mixqsam.sam.crops import Crop, is_whole, make_crops

__all__ = ["Automatic", "Masks", "find_masks", "join_masks", "measure_stability", "segment_everything", "split_grid"]

# Points prompted at once: the filters may leave all of their masks, a byte for each pixel of the image.
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
        crops: [n, 4], the part of the image that each mask was found in: x1, y1, x2, y2.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    stability: NDArray[np.float64]
    points: Array
    choices: NDArray[np.int64]
    crops: NDArray[np.int64]

    def take(self, chosen: NDArray[Any]) -> "Masks":
        """Select masks, by index or by a boolean for each."""
        return Masks(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def records(self, *, rle: bool = False) -> list[dict[str, Any]]:
        """One dictionary for each mask, with the keys of segment-anything's generator.

        Args:
            rle: `segmentation` is COCO's uncompressed run-length encoding; otherwise an array of booleans.
        """
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
                "crop_box": [x1, y1, x2 - x1, y2 - y1],
            }
            for i, (mask, (x1, y1, x2, y2)) in enumerate(zip(self.masks, self.crops.tolist(), strict=True))
        ]


def encode_runs(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """A mask [height, width] as COCO's uncompressed runs: column by column, the first one of background."""
    flat = np.concatenate([[False], mask.T.reshape(-1), [False]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], ends, [mask.size]])).tolist()
    # A mask that reaches the end has an empty run behind it.
    return {"size": list(mask.shape), "counts": runs[:-1] if runs[-1] == 0 and len(runs) > 1 else runs}


def segment_everything(
    predictor: Predictor,
    image: Image.Image | NDArray[Any],
    options: Automatic | None = None,
    *,
    progress: Progress | None = None,
) -> Masks:
    """All masks that a model finds in an image: three for each point of a grid, filtered and without duplicates.

    Args:
        predictor: of any runtime; it has the image afterwards.
        image: a Pillow image, or uint8 [height, width, 3].
        options: the grid, the filters and the crops; by default those of Meta's generator. The removal of small regions
            is not done.
        progress: receives the progress, in points.

    Raises:
        InputError: the image is too small for its crops, or the decoder gives one mask for each prompt.
    """
    options, picture = options or Automatic(), from_input(image)
    work = [
        (crop, points)
        for crop in make_crops(picture.height, picture.width, options)
        for points in _split_crop(crop, options)
    ]
    total = sum(len(points) for _, points in work)
    tracked = (progress or Silent()).track(
        work, label="Segmenting everything", total=total, steps=lambda one: len(one[1])
    )
    found: dict[Crop, Masks] = {}
    encoding: object = None
    for crop, groups in groupby(tracked, key=itemgetter(0)):
        predictor.set_image(picture.crop(crop.box))
        encoding = predictor.keep() if encoding is None else encoding
        parts = [_find_whole(predictor, points, options, crop=crop, size=picture.size) for _, points in groups]
        found[crop] = join_masks(parts, options)
    if len(found) == 1:
        return next(iter(found.values()))
    predictor.restore(encoding)
    return join_crops(found, options, height=picture.height, width=picture.width)


def _split_crop(crop: Crop, options: Automatic) -> list[Prompts]:
    own = replace(options, side=crop.side)
    return split_grid(crop.bottom - crop.top, crop.right - crop.left, options=own)


def _find_whole(
    predictor: Predictor, points: Prompts, options: Automatic, *, crop: Crop, size: tuple[int, int]
) -> Masks:
    """What some points give in a crop that a predictor has, without what its edges cut; `size` is the image's."""
    masks = find_masks(predictor, points, options)
    return masks.take(is_whole(_boxes(masks.masks), crop, width=size[0], height=size[1]))


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
    """What some points give in the image that a predictor has, and the filters leave; with duplicates, in their order.

    Args:
        predictor: of any runtime, with an image.
        points: one for each prompt.
        options: the filters.
    """
    found = predictor.propose(points)
    # What follows costs more from step to step, so each step has only what the one before has left.
    sure = found.scores >= options.predicted_iou
    steady = np.zeros(sure.shape)
    steady[sure] = measure_stability(found, sure)
    chosen = sure & (steady >= options.stability)
    masks = found.draw(chosen)
    prompts, choices = np.nonzero(chosen)
    assert points.points is not None  # noqa: S101  (a grid has points)
    crops = np.tile((0, 0, masks.shape[2], masks.shape[1]), (len(prompts), 1))
    kept = Masks(masks, found.scores[chosen], steady[chosen], points.points[prompts, 0], choices + 1, crops)
    return kept.take(np.flatnonzero(masks.any(axis=(1, 2))))


def join_masks(found: Sequence[Masks], options: Automatic) -> Masks:
    """Join what groups of points gave, without duplicates; the surest first."""
    joined = _concatenate(found)
    return joined.take(_suppress(_boxes(joined.masks), joined.scores, limit=options.overlap))


def join_crops(found: Mapping[Crop, Masks], options: Automatic, *, height: int, width: int) -> Masks:
    """Join what the crops of an image gave, without duplicates: that of the smaller crop stays. The surest come first.

    Args:
        found: crop → its masks, in its pixels.
        options: the filters.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    corners = [_boxes(some.masks) + np.tile(crop.box[:2], 2) for crop, some in found.items()]
    areas = [np.full(len(some.masks), crop.area) for crop, some in found.items()]
    stays = np.zeros(sum(map(len, areas)), dtype=np.bool_)
    stays[_suppress(np.concatenate(corners), 1 / np.concatenate(areas), limit=options.overlap)] = True
    pieces = np.split(stays, np.cumsum([len(of_crop) for of_crop in areas])[:-1])
    placed = [
        _place(some.take(piece), crop, height=height, width=width)
        for (crop, some), piece in zip(found.items(), pieces, strict=True)
    ]
    joined = _concatenate(placed)
    return joined.take(np.argsort(-joined.scores, kind="stable"))


def _concatenate(found: Sequence[Masks]) -> Masks:
    return Masks(*(np.concatenate([getattr(some, field.name) for some in found]) for field in fields(Masks)))


def _place(masks: Masks, crop: Crop, *, height: int, width: int) -> Masks:
    """Masks of a crop, in the image's pixels."""
    placed = np.zeros((len(masks.masks), height, width), dtype=np.bool_)
    placed[:, crop.top : crop.bottom, crop.left : crop.right] = masks.masks
    crops = np.tile(crop.box, (len(placed), 1))
    return replace(masks, masks=placed, points=masks.points + crop.box[:2], crops=crops)


def measure_stability(found: Candidates, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Divide the area above +1 by that above −1: how little each chosen mask depends on where it is cut.

    Args:
        found: masks of some prompts.
        chosen: [P, M], n of them true.

    Returns:
        Shares [n], measured on low-resolution logits.
    """
    rows, columns = found.visible
    logits = found.logits[chosen][:, :rows, :columns]
    inner, outer = (np.count_nonzero(logits > cut, axis=(-2, -1)) for cut in (1.0, -1.0))
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


def _suppress(boxes: Array, scores: NDArray[Any], *, limit: float) -> NDArray[np.int64]:
    """Indices of what stays, the surest first."""
    return suppress(Detections.of(boxes, scores, np.zeros(len(scores))), limit)
