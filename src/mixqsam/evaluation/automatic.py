"""Segment everything, compared: do two models find the same masks, and do they find the annotated ones?"""

from dataclasses import dataclass

import numpy as np
from faster_coco_eval.core import mask as rle
from numpy.typing import NDArray

IOUS = tuple(np.arange(0.5, 1.0, 0.05).round(2).tolist())


@dataclass(frozen=True)
class AutomaticScores:
    """Over all masks of all images; shares in percent, None where there is nothing to compare with.

    Attributes:
        images: evaluated.
        masks: predicted masks, for each image.
        fidelity: mean, over the reference model's masks, of the IoU with the nearest predicted mask.
        same: share of the reference's masks that are found with an IoU of at least 0.75.
        recall: share of annotated masks found, mean over IoU 0.50 … 0.95.
        recall50: at IoU 0.50.
    """

    images: int
    masks: float
    fidelity: float | None
    same: float | None
    recall: float | None
    recall50: float | None


def nearest_ious(targets: NDArray[np.bool_], candidates: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The IoU of each target mask [n, height, width] with the nearest candidate [m, height, width]: [n]."""
    if not len(targets) or not len(candidates):
        return np.zeros(len(targets))
    ious: NDArray[np.float64] = np.asarray(rle.iou(_encode(candidates), _encode(targets), [0] * len(targets)))
    nearest: NDArray[np.float64] = ious.max(axis=0)
    return nearest


def _encode(masks: NDArray[np.bool_]) -> list[dict[str, object]]:
    codes: list[dict[str, object]] = rle.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return codes


class AutomaticCounts:
    """Figures of one model, added image by image; masks are not stored."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._reference: list[NDArray[np.float64]] = []
        self._truth: list[NDArray[np.float64]] = []

    def add(
        self,
        masks: NDArray[np.bool_],
        *,
        reference: NDArray[np.bool_] | None,
        truth: NDArray[np.bool_] | None,
    ) -> None:
        """Count the masks of an image; `reference` is None for the reference itself, `truth` without annotations."""
        self._counts.append(len(masks))
        if reference is not None:
            self._reference.append(nearest_ious(reference, masks))
        if truth is not None:
            self._truth.append(nearest_ious(truth, masks))

    def scores(self) -> AutomaticScores:
        """Compute the scores of all images."""
        reference, truth = (np.concatenate(ious) if ious else np.zeros(0) for ious in (self._reference, self._truth))
        return AutomaticScores(
            images=len(self._counts),
            masks=float(np.mean(self._counts)) if self._counts else 0.0,
            fidelity=float(reference.mean()) if len(reference) else None,
            same=float(100 * (reference >= 0.75).mean()) if len(reference) else None,
            recall=float(100 * np.mean([(truth >= t).mean() for t in IOUS])) if len(truth) else None,
            recall50=float(100 * (truth >= 0.5).mean()) if len(truth) else None,
        )
