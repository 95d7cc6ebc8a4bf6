"""COCO annotation files and COCO-results files, validated before use."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from mixqsam.data.images import MOST_PIXELS
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError, ImageError
from mixqsam.files import parse_json
from mixqsam.prompts import Array, Prompts, clip_boxes

Box = Annotated[list[float], Field(min_length=4, max_length=4)]


class CocoImage(BaseModel):
    """One image record."""

    id: int
    file_name: str = Field(min_length=1, pattern="^[^\0]+$")
    width: int = Field(gt=0)
    height: int = Field(gt=0)

    @model_validator(mode="after")
    def _can_be_opened(self) -> "CocoImage":
        if self.width * self.height > MOST_PIXELS:
            raise ValueError(f"{self.width}×{self.height} pixels are more than the {MOST_PIXELS:,} that can be read")
        return self


class CocoAnnotation(BaseModel):
    """One instance; the segmentation is left to the evaluator."""

    id: int
    image_id: int
    category_id: int
    bbox: Box
    iscrowd: int = 0


class CocoCategory(BaseModel):
    """One class."""

    id: int
    name: str = ""


class CocoFile(BaseModel):
    """What is read of an annotation file."""

    images: list[CocoImage] = Field(min_length=1)
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory] = []


class Detection(BaseModel):
    """One record of a COCO-results file with boxes."""

    image_id: int
    category_id: int
    bbox: Box
    score: float = Field(allow_inf_nan=False)


_DETECTIONS = TypeAdapter(list[Detection])


def read_annotations(path: Path) -> CocoFile:
    """Read and check a COCO annotation file.

    Raises:
        AnnotationError: missing, empty, not JSON, or not in COCO's instance format; says what and where.
    """
    try:
        return CocoFile.model_validate(_read(path, what="a COCO annotation file"))
    except ValidationError as error:
        raise AnnotationError(f"{path} is not a COCO annotation file: {_first(error)}.") from error


def read_detections(path: Path) -> list[Detection]:
    """Read and check a COCO-results file: a list of `{image_id, category_id, bbox, score}`.

    Raises:
        AnnotationError: missing, not JSON, of another form, or empty.
    """
    try:
        detections = _DETECTIONS.validate_python(_read(path, what="a COCO-results file"))
    except ValidationError as error:
        raise AnnotationError(f"{path} is not a COCO-results file of boxes: {_first(error)}.") from error
    if not detections:
        raise AnnotationError(f"{path} holds no detections.")
    return detections


def category_names(annotations: Path) -> dict[int, str]:
    """Category → name.

    Raises:
        AnnotationError: the file has no named categories.
    """
    names = {category.id: category.name for category in read_annotations(annotations).categories if category.name}
    if not names:
        raise AnnotationError(f"{annotations} names no categories, so a detector's classes cannot be matched.")
    return names


@dataclass(frozen=True)
class _Prompt:
    """A box [x, y, width, height], and what is known of it."""

    image_id: int
    box: Box
    category: int
    score: float | None = None
    annotation_id: int | None = None


def annotated_samples(annotations: Path, *, images: Path, detections: Path | None = None) -> list[Sample]:
    """Every image of an annotation file with its ground-truth boxes, or those of a detector, as prompts.

    Crowd regions and boxes of zero size are no prompts. Images without prompts are kept, with none.

    Args:
        annotations: the COCO file.
        images: the folder that its file names are relative to.
        detections: a COCO-results file whose boxes take the place of the ground truth's.

    Raises:
        AnnotationError: a file is malformed, or boxes and images do not belong together.
        ImageError: an image file is missing.
    """
    content = read_annotations(annotations)
    records = {image.id: image for image in content.images}
    known = {category.id for category in content.categories}
    boxes: dict[int, list[_Prompt]] = {image.id: [] for image in content.images}
    source = detections or annotations
    for prompt in _detected(detections) if detections else _annotated(content):
        if prompt.image_id not in records:
            raise AnnotationError(
                f"{source}: a box belongs to image {prompt.image_id}, which {annotations} does not hold."
            )
        if detections and content.categories and prompt.category not in known:
            raise AnnotationError(
                f"{source}: a box of image {prompt.image_id} has category {prompt.category}, which {annotations} "
                "does not have; its class numbers are probably those of another data set."
            )
        boxes[prompt.image_id].append(prompt)
    return [_sample(records[i], boxes[i], images=images, source=source) for i in sorted(records)]


def _detected(path: Path) -> list[_Prompt]:
    return [_Prompt(d.image_id, d.bbox, d.category_id, score=d.score) for d in read_detections(path)]


def _annotated(content: CocoFile) -> list[_Prompt]:
    return [
        _Prompt(a.image_id, a.bbox, a.category_id, annotation_id=a.id)
        for a in content.annotations
        if not a.iscrowd and a.bbox[2] > 0 and a.bbox[3] > 0
    ]


def _sample(record: CocoImage, boxes: list[_Prompt], *, images: Path, source: Path) -> Sample:
    try:
        path = (images / record.file_name).resolve()
        there = path.is_file()
    except OSError as error:
        raise AnnotationError(
            f"{source}: file name {record.file_name!r:.100} cannot be one: {error.strerror}."
        ) from error
    if not path.is_relative_to(images.resolve()):
        raise AnnotationError(f"{source}: file name {record.file_name!r} leaves the image folder {images}.")
    if not there:
        raise ImageError(f"{path} is missing: {source} names it, and {images} does not hold it.")
    corners: Array = np.array([prompt.box for prompt in boxes], dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    where = f"{source}, image {record.id} ({record.file_name})"
    corners = clip_boxes(corners, width=record.width, height=record.height, source=where)
    scores = tuple(prompt.score for prompt in boxes if prompt.score is not None)
    return Sample(
        path=path,
        width=record.width,
        height=record.height,
        prompts=Prompts(boxes=corners),
        image_id=record.id,
        categories=tuple(prompt.category for prompt in boxes),
        scores=scores or None,
        annotation_ids=tuple(prompt.annotation_id for prompt in boxes if prompt.annotation_id is not None),
    )


def _read(path: Path, *, what: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise AnnotationError(f"{path} is empty; expected {what}.")
        return parse_json(text)
    except FileNotFoundError as error:
        raise AnnotationError(f"{path} does not exist; expected {what}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} cannot be read as {what}: {error}.") from error


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    place = ".".join(str(part) for part in detail["loc"]) or "the file"
    return f"{place}: {detail['msg']}"
