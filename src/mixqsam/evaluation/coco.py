"""COCO mask AP, by faster-coco-eval (equal to pycocotools, and several times as fast)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle
from numpy.typing import NDArray

from mixqsam.data.records import CocoAnnotation, read_annotations
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError, shortened
from mixqsam.evaluation.segmentations import checked_segmentation, encoded
from mixqsam.prediction import Prediction

# Exceptions of the evaluator for malformed records.
_FAULTS = (KeyError, TypeError, ValueError, IndexError, AssertionError, RuntimeError, AttributeError)


@dataclass(frozen=True)
class CocoScores:
    """Average precision of masks, in percent; −1 without objects to measure.

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

    Ids are renumbered for the evaluator: it takes ids of 0 and below for "unmatched", and refuses ids above 2⁶³.

    Attributes:
        unmasked: annotations without a mask, by id. They are not scored: their prompts' masks are left out, and what
            others find in their boxes counts neither as right nor as wrong.

    Raises:
        AnnotationError: the evaluator cannot read it, or there is no mask in it.
    """

    def __init__(self, annotations: Path) -> None:
        self._path = annotations
        content = read_annotations(annotations)
        self._images = {image.id: image for image in content.images}
        self._image_numbers = _number(self._images)
        categories = {category.id for category in content.categories} or {a.category_id for a in content.annotations}
        self._category_numbers = _number(categories)
        self._numbers = {annotation.id: number for number, annotation in enumerate(content.annotations, start=1)}
        shapes = {annotation.id: self._shape(annotation) for annotation in content.annotations}
        self.unmasked = frozenset(number for number, shape in shapes.items() if shape is None)
        if content.annotations and all(a.id in self.unmasked for a in content.annotations if not a.iscrowd):
            raise AnnotationError(
                f"{annotations} holds no masks: all of its {len(content.annotations)} segmentations are empty or "
                "missing, so there is nothing to score masks against. Give it as --boxes, without --annotations, to "
                "prompt with its boxes and compare with the float model."
            )
        try:
            self._coco = COCO(
                {
                    "images": [
                        {"id": self._image_numbers[image.id], "width": image.width, "height": image.height}
                        for image in content.images
                    ],
                    "annotations": [self._entry(a, shapes[a.id]) for a in content.annotations],
                    "categories": [{"id": number, "name": str(number)} for number in self._category_numbers.values()],
                }
            )
        except _FAULTS as error:
            raise AnnotationError(f"{annotations} cannot be scored against: {shortened(repr(error))}.") from error

    def _shape(self, annotation: CocoAnnotation) -> Any:
        image = self._images[annotation.image_id]
        try:
            return checked_segmentation(annotation.segmentation, height=image.height, width=image.width)
        except (ValueError, OverflowError) as error:
            raise AnnotationError(
                f"{self._path} cannot be scored against: the segmentation of annotation "
                f"{shortened(annotation.id, most=60)}, whose image has {image.width}×{image.height} pixels, {error}."
            ) from error

    def _entry(self, annotation: CocoAnnotation, shape: Any) -> dict[str, Any]:
        """An annotation as the evaluator gets it; without a mask it is a region where nothing counts."""
        image = self._images[annotation.image_id]
        if annotation.category_id not in self._category_numbers:
            raise AnnotationError(
                f"{self._path} cannot be scored against: annotation {shortened(annotation.id, most=60)} has category "
                f"{shortened(annotation.category_id, most=60)}, which is not among its categories."
            )
        x, y, width, height = annotation.bbox
        region = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        segmentation = region if shape is None else shape
        size = {"height": image.height, "width": image.width}
        area = annotation.area
        if area is None or shape is None:
            try:
                area = float(rle.area(encoded(segmentation, **size))) if shape is not None else max(0.0, width * height)
            except _FAULTS as error:
                raise AnnotationError(self._undrawn(annotation.id, error)) from error
        return {
            "id": self._numbers[annotation.id],
            "image_id": self._image_numbers[annotation.image_id],
            "category_id": self._category_numbers[annotation.category_id],
            "bbox": list(annotation.bbox),
            "iscrowd": int(shape is None or bool(annotation.iscrowd)),
            "area": area,
            "segmentation": segmentation,
        }

    def _undrawn(self, annotation: int, error: Exception) -> str:
        number = shortened(annotation, most=60)
        return f"{self._path}: the segmentation of annotation {number} cannot be drawn: {shortened(error)}."

    def scored(self, sample: Sample) -> NDArray[np.bool_]:
        """Whether the mask of each prompt is scored, [P]."""
        if not sample.annotation_ids:
            return np.ones(len(sample.prompts), dtype=bool)
        return np.array([number not in self.unmasked for number in sample.annotation_ids], dtype=bool)

    def masks(self, sample: Sample) -> NDArray[np.bool_] | None:
        """The annotated masks behind a sample's scored prompts; None where prompts are a detector's.

        A polygon without area gives an empty mask, as it does when it is scored.

        Returns:
            [P, height, width], one for each prompt that is `scored`.

        Raises:
            AnnotationError: a segmentation cannot be drawn.
        """
        if not sample.annotation_ids:
            return None
        masks = [self._mask(number, sample) for number in sample.annotation_ids if number not in self.unmasked]
        return np.array(masks, dtype=bool).reshape(-1, sample.height, sample.width)

    def _mask(self, annotation: int, sample: Sample) -> NDArray[np.bool_]:
        try:
            (entry,) = self._coco.loadAnns([self._numbers[annotation]])
            return np.asarray(self._coco.annToMask(entry), dtype=bool).reshape(sample.height, sample.width)
        except _FAULTS as error:
            raise AnnotationError(self._undrawn(annotation, error)) from error

    def score(self, results: Sequence[Mapping[str, Any]], *, images: Sequence[int] | None = None) -> CocoScores:
        """Mask AP of results over some images of the file, or all; those without results count as empty.

        Args:
            results: COCO results, with the ids that samples have.
            images: ids of images.

        Raises:
            AnnotationError: the file has no instances to score against, or they are malformed.
        """
        numbers = None if images is None else sorted(self._image_numbers[image] for image in images)
        try:
            return _score(self._coco, [self._numbered_result(result) for result in results], images=numbers)
        except _FAULTS as error:
            raise AnnotationError(f"{self._path} cannot be scored against: {shortened(repr(error))}.") from error

    def score_drawn(self, results: Sequence[Mapping[str, Any]], *, images: Sequence[int]) -> float:
        """AP of results over images drawn with replacement: an image that is drawn twice counts twice.

        Args:
            results: COCO results of these images, with the ids that samples have.
            images: ids of the drawn images.
        """
        places = list(enumerate((self._image_numbers[image] for image in images), start=1))
        truths = [{**a, "image_id": p} for p, number in places for a in self._coco.imgToAnns[number]]
        numbered = [self._numbered_result(result) for result in results]
        coco = COCO(
            {
                "images": [{**self._coco.imgs[number], "id": place} for place, number in places],
                "annotations": [{**annotation, "id": n} for n, annotation in enumerate(truths, start=1)],
                "categories": self._coco.dataset["categories"],
            }
        )
        found = [{**r, "image_id": place} for place, number in places for r in numbered if r["image_id"] == number]
        return _score(coco, found, images=None).ap

    def _numbered_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """A result with the evaluator's numbers; a category that the file lacks gets a new number."""
        category = self._category_numbers.get(result["category_id"], len(self._category_numbers) + 1)
        return {**result, "image_id": self._image_numbers[result["image_id"]], "category_id": category}


def _score(coco: COCO, results: Sequence[Mapping[str, Any]], *, images: Sequence[int] | None) -> CocoScores:
    """Score results with the evaluator's numbers; None for all images."""
    evaluation = COCOeval_faster(coco, coco.loadRes(results), iouType="segm", print_function=_discard)
    if images is not None:
        evaluation.params.imgIds = images
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    values = [float(value) for value in evaluation.stats[:6]]
    return CocoScores(*(100 * value if value >= 0 else -1.0 for value in values))


def _number(ids: Iterable[int]) -> dict[int, int]:
    """Number ids 1, 2, … in ascending order."""
    return {identifier: number for number, identifier in enumerate(sorted(ids), start=1)}


def mask_results(sample: Sample, prediction: Prediction) -> list[dict[str, Any]]:
    """One image's masks as COCO results; the score is the predicted IoU, times the detector's if there is one."""
    scores = prediction.scores[:, 0]
    if sample.scores is not None:
        scores = scores * np.array(sample.scores, dtype=np.float32)
    return [
        {"image_id": sample.image_id, "category_id": category, "segmentation": code, "score": float(score)}
        for category, code, score in zip(sample.categories, encode_masks(prediction.masks[:, 0]), scores, strict=True)
    ]


def encode_masks(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Encode masks [P, height, width] as COCO's compressed run lengths: `size` and `counts`."""
    encoded = rle.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return [_text(code) for code in encoded]


def _text(code: dict[str, Any]) -> dict[str, Any]:
    """A mask's code with its counts as text: what COCO's files hold."""
    counts = code["counts"]
    return {"size": code["size"], "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _discard(*_: object) -> None:
    """Discard the messages of the evaluator."""
