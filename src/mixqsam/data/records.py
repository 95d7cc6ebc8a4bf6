"""Validated records of COCO's files; ids and flags become integers here."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from mixqsam.data.images import MOST_PIXELS
from mixqsam.errors import AnnotationError, shortened
from mixqsam.files import parse_json, read_text

# Floats above this cannot represent every whole number.
_EXACT = 2**53
_MOST_DIGITS = 40


def whole_number(value: Any) -> int:
    """Read a whole number, also from text or a float.

    Raises:
        ValueError: it is not exactly a whole number.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= _MOST_DIGITS:
        text = value.strip()
        digits = text.removeprefix("-").removeprefix("+")
        if digits.isascii() and digits.isdigit():
            return int(text)
        with contextlib.suppress(ValueError):
            value = float(text) if text.isascii() else value
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    raise ValueError(f"{shortened(repr(value), most=60)} is not a whole number")


def _flag(value: Any) -> int:
    """0 or 1, also from a boolean or nothing."""
    return int(bool(value)) if value is None or isinstance(value, bool) else whole_number(value)


def _positive(value: Any) -> float | None:
    """A positive number, or None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < _EXACT else None


Whole = Annotated[int, BeforeValidator(whole_number)]
Flag = Annotated[int, BeforeValidator(_flag)]
Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Box = Annotated[list[Coordinate], Field(min_length=4, max_length=4)]


class CocoImage(BaseModel):
    """One image record."""

    id: Whole
    file_name: str = Field(min_length=1, pattern="^[^\0]+$")
    width: Whole = Field(gt=0)
    height: Whole = Field(gt=0)

    @model_validator(mode="after")
    def _can_be_opened(self) -> "CocoImage":
        if self.width * self.height > MOST_PIXELS:
            size = shortened(f"{self.width}×{self.height}", most=60)
            raise ValueError(f"{size} pixels are more than the {MOST_PIXELS:,} that can be read")
        return self


class CocoAnnotation(BaseModel):
    """One instance.

    Attributes:
        area: pixels; None where the file does not hold a positive number.
        segmentation: as the file holds it; see `mixqsam.evaluation.segmentations`.
    """

    id: Whole
    image_id: Whole
    category_id: Whole
    bbox: Box
    iscrowd: Flag = 0
    area: Annotated[float | None, BeforeValidator(_positive)] = None
    segmentation: Any = None


class CocoCategory(BaseModel):
    """One class."""

    id: Whole
    name: Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))] = ""


class CocoFile(BaseModel):
    """The used content of an annotation file."""

    images: list[CocoImage] = Field(min_length=1)
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory] = []

    @model_validator(mode="after")
    def _ids_are_unique(self) -> "CocoFile":
        if (duplicate := _find_duplicate(image.id for image in self.images)) is not None:
            files = [image.file_name for image in self.images if image.id == duplicate]
            shown = shortened(" and ".join(files[:2]))
            raise ValueError(
                f"two images have the id {shortened(duplicate, most=60)} ({shown}); give each one of its own"
            )
        if (duplicate := _find_duplicate(annotation.id for annotation in self.annotations)) is not None:
            shown = shortened(duplicate, most=60)
            raise ValueError(f"two annotations have the id {shown}; give each one of its own")
        names = {category.id: category.name for category in self.categories}
        conflicting = next((category for category in self.categories if names[category.id] != category.name), None)
        if conflicting is not None:
            both = shortened(f"{conflicting.name!r} and {names[conflicting.id]!r}")
            raise ValueError(f"two categories have the id {shortened(conflicting.id, most=60)} ({both})")
        return self

    @model_validator(mode="after")
    def _annotations_have_images(self) -> "CocoFile":
        known = {image.id for image in self.images}
        orphan = next((a for a in self.annotations if a.image_id not in known), None)
        if orphan is not None:
            owner, number = shortened(orphan.image_id, most=60), shortened(orphan.id, most=60)
            raise ValueError(f"annotation {number} belongs to image {owner}, which is not among the images")
        return self


class Detection(BaseModel):
    """One record of a COCO-results file with boxes."""

    image_id: Whole
    category_id: Whole
    bbox: Box
    score: float = Field(allow_inf_nan=False)


class NamedBox(BaseModel):
    """One box with the id or the file name of its image; category and score may be missing."""

    image_id: int | float | str | None = None
    file_name: str | None = None
    category_id: Whole = 0
    bbox: Box
    score: float | None = Field(default=None, allow_inf_nan=False)


class ListedBoxes(BaseModel):
    """Boxes beside the list of their images, as an annotation file holds them."""

    images: list[CocoImage] = Field(min_length=1)
    annotations: list[NamedBox]


_DETECTIONS = TypeAdapter(list[Detection])
_NAMED = TypeAdapter(list[NamedBox])


def read_annotations(path: Path) -> CocoFile:
    """Read and check a COCO annotation file.

    Raises:
        AnnotationError: missing, empty, not JSON, or not in COCO's instance format; says what and where.
    """
    try:
        return CocoFile.model_validate(_read(path, what="a COCO annotation file"))
    except ValidationError as error:
        raise AnnotationError(f"{path} is not a COCO annotation file: {_first(error)}.") from error


def holds_masks(annotations: Path) -> bool:
    """Whether an annotation file has a segmentation; exports of a detector have none.

    Raises:
        AnnotationError: see `read_annotations`.
    """
    return any(a.segmentation for a in read_annotations(annotations).annotations if not a.iscrowd)


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


def read_boxes(path: Path) -> tuple[list[NamedBox], list[CocoImage] | None]:
    """Read boxes without annotations, and the list of their images, if the file has one.

    Args:
        path: a COCO-results file, or one with `images` and `annotations`.

    Raises:
        AnnotationError: missing, not JSON, of another form, or empty.
    """
    values = _read(path, what="a COCO-results file")
    try:
        if isinstance(values, dict):
            listed = ListedBoxes.model_validate(values)
            boxes, images = listed.annotations, listed.images
            if (duplicate := _find_duplicate(image.id for image in images)) is not None:
                raise AnnotationError(f"{path}: two images have the id {shortened(duplicate, most=60)}.")
        else:
            boxes, images = _NAMED.validate_python(values), None
    except ValidationError as error:
        raise AnnotationError(f"{path} is not a COCO-results file of boxes: {_first(error)}.") from error
    if not boxes:
        raise AnnotationError(f"{path} holds no detections.")
    return boxes, images


@dataclass(frozen=True)
class FileIds:
    """Ids as an annotation file writes them, so that other tools can use results with that file.

    Attributes:
        images, categories: number → id in the file.
    """

    images: Mapping[int, Any]
    categories: Mapping[int, Any]

    def restore(self, results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Restore the file's ids in COCO results."""
        return [
            {
                **result,
                "image_id": self.images.get(result["image_id"], result["image_id"]),
                "category_id": self.categories.get(result["category_id"], result["category_id"]),
            }
            for result in results
        ]


def read_file_ids(annotations: Path) -> FileIds:
    """Read the ids of an annotation file as it writes them; `read_annotations` has validated the file."""
    values = _read(annotations, what="a COCO annotation file")
    images, categories = (
        {whole_number(entry["id"]): entry["id"] for entry in values.get(name) or ()}
        for name in ("images", "categories")
    )
    return FileIds(images, categories)


def _read(path: Path, *, what: str) -> Any:
    try:
        text = read_text(path)
        if not text.strip():
            raise AnnotationError(f"{path} is empty; expected {what}.")
        return parse_json(text)
    except FileNotFoundError as error:
        raise AnnotationError(f"{path} does not exist; expected {what}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} cannot be read as {what}: {shortened(error)}.") from error


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    return shortened(f"{place}: {message}" if place else message)


def _find_duplicate(ids: Iterable[int]) -> int | None:
    """Find the first id that occurs twice."""
    seen: set[int] = set()
    for identifier in ids:
        if identifier in seen:
            return identifier
        seen.add(identifier)
    return None
