"""COCO mask AP, by faster-coco-eval (equal to pycocotools, and several times as fast)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle
from numpy.typing import NDArray

from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError
from mixqsam.evaluation.segmentations import check_segmentations
from mixqsam.files import parse_json
from mixqsam.prediction import Prediction


@dataclass(frozen=True)
class CocoScores:
    """Average precision of masks, in percent; −1 where there is nothing to measure.

    Attributes:
        ap: mean over IoU 0.50 … 0.95.
        ap50, ap75: at one IoU.
        small, medium, large: `ap` of objects below 32², below 96², above 96² pixels.
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float


class Truth:
    """An annotation file to score against, read once.

    Raises:
        AnnotationError: the evaluator cannot read it.
    """

    def __init__(self, annotations: Path) -> None:
        self._path = annotations
        try:
            values = parse_json(annotations.read_text(encoding="utf-8"))
            check_segmentations(values)
            self._coco = COCO(values)
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise AnnotationError(f"{annotations} cannot be scored against: {error!r}.") from error

    def masks(self, sample: Sample) -> NDArray[np.bool_] | None:
        """The annotated masks behind a sample's prompts, [P, height, width]; None where prompts are a detector's.

        A polygon without area gives an empty mask, as it does when it is scored.

        Raises:
            AnnotationError: a segmentation cannot be drawn, or is not of the image's size.
        """
        if not sample.annotation_ids:
            return None
        found = self._coco.loadAnns(list(sample.annotation_ids))
        return np.stack([self._mask(one, sample) for one in found])

    def _mask(self, annotation: dict[str, Any], sample: Sample) -> NDArray[np.bool_]:
        polygons = annotation.get("segmentation")
        if isinstance(polygons, list) and not any(isinstance(one, list) and len(one) >= 6 for one in polygons):
            return np.zeros((sample.height, sample.width), dtype=bool)
        try:
            mask = np.asarray(self._coco.annToMask(annotation), dtype=bool)
        except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
            raise AnnotationError(
                f"{self._path}: the segmentation of annotation {annotation.get('id')} cannot be drawn: {error}."
            ) from error
        if mask.shape != (sample.height, sample.width):
            raise AnnotationError(
                f"{self._path}: the segmentation of annotation {annotation.get('id')} is for {mask.shape[1]}×"
                f"{mask.shape[0]} pixels, its image has {sample.width}×{sample.height}."
            )
        return mask

    def score(self, results: list[dict[str, Any]], *, images: Sequence[int] | None = None) -> CocoScores:
        """Mask AP of results over some images of the file, or all; those without results count as empty.

        Raises:
            AnnotationError: the file has no instances to score against, or they are malformed.
        """
        try:
            # The evaluator writes into the records that it is given.
            found = self._coco.loadRes([dict(result) for result in results])
            evaluation = COCOeval_faster(self._coco, found, iouType="segm", print_function=_quiet)
            if images is not None:
                evaluation.params.imgIds = sorted(images)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        except (KeyError, TypeError, ValueError, IndexError, AssertionError, RuntimeError) as error:
            raise AnnotationError(f"{self._path} cannot be scored against: {error!r}.") from error
        values = [float(value) for value in evaluation.stats[:6]]
        return CocoScores(*(100 * value if value >= 0 else -1.0 for value in values))


def mask_results(sample: Sample, prediction: Prediction) -> list[dict[str, Any]]:
    """One image's masks as COCO results; the score is the predicted IoU, times the detector's if there is one."""
    scores = prediction.scores[:, 0]
    if sample.scores is not None:
        scores = scores * np.array(sample.scores, dtype=np.float32)
    encoded = rle.encode(np.asfortranarray(prediction.masks[:, 0].transpose(1, 2, 0).astype(np.uint8)))
    return [
        {"image_id": sample.image_id, "category_id": category, "segmentation": _text(code), "score": float(score)}
        for category, code, score in zip(sample.categories, encoded, scores, strict=True)
    ]


def _text(code: dict[str, Any]) -> dict[str, Any]:
    """A mask's code with its counts as text: what COCO's files hold."""
    counts = code["counts"]
    return {"size": code["size"], "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _quiet(*_: object) -> None:
    """The evaluator's own words are not for the user."""
