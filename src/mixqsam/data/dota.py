"""DOTA's files: oriented labels, horizontal boxes of a detector, and tiles of large images.

See docs/method.md, “Oriented detection”.

A label file `P0001.txt` belongs to the image `P0001.png`. Its lines are `x1 y1 x2 y2 x3 y3 x4 y4 category difficult`;
lines such as `imagesource:GoogleEarth` and `gsd:0.14` may come first, and `difficult` may be left out (0).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixqsam.data.images import list_images
from mixqsam.errors import AnnotationError, shortened
from mixqsam.files import read_text
from mixqsam.prompts import Array

_HEADERS = ("imagesource:", "gsd:")
_TASK2 = "Task2_"


@dataclass(frozen=True)
class OrientedObject:
    """One labelled object.

    Attributes:
        corners: [4, 2], x and y in pixels.
        category: its name.
        difficult: the object counts neither as found nor as missed.
    """

    corners: Array
    category: str
    difficult: bool


@dataclass(frozen=True)
class HorizontalBox:
    """A box that prompts the model.

    Attributes:
        box: [4], x1, y1, x2, y2.
        category: its name.
        score: the detector's; None for ground truth.
    """

    box: Array
    category: str
    score: float | None


@dataclass(frozen=True)
class DotaImage:
    """An image with its objects.

    Attributes:
        path: the file; its stem is the image's name.
        objects: labelled ones; may be none.
    """

    path: Path
    objects: tuple[OrientedObject, ...]

    @property
    def name(self) -> str:
        """Name of the image in results."""
        return self.path.stem

    def boxes(self) -> list[HorizontalBox]:
        """The horizontal rectangles around the objects."""
        return [
            HorizontalBox(np.concatenate([o.corners.min(axis=0), o.corners.max(axis=0)]), o.category, None)
            for o in self.objects
        ]


def read_dota(images: Path, labels: Path) -> list[DotaImage]:
    """Read all images of a folder with their label files.

    Raises:
        ImageError: the folder does not hold an image.
        AnnotationError: an image without a label file, a label file without an image, or a malformed line.
    """
    if not labels.is_dir():
        raise AnnotationError(f"{labels} is not a folder; give the folder of DOTA's label files (P0001.txt, …).")
    paths = {path.stem: path for path in list_images(images)}
    files = {path.stem: path for path in sorted(labels.glob("*.txt"))}
    for name in sorted(paths.keys() ^ files.keys()):
        existing, missing = (paths[name], labels / f"{name}.txt") if name in paths else (files[name], images / name)
        raise AnnotationError(
            f"{existing} has no counterpart: expected {missing}; an image without objects has an empty one."
        )
    return [DotaImage(paths[name], tuple(read_labels(files[name]))) for name in sorted(paths)]


def read_labels(path: Path) -> list[OrientedObject]:
    """Read the objects of one label file.

    Raises:
        AnnotationError: a line is malformed, or an object has no area; the message names file and line.
    """
    objects = []
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip() or line.strip().lower().startswith(_HEADERS):
            continue
        objects.append(_parse_object(line.split(), f"{path}, line {number}"))
    return objects


def _read_lines(path: Path) -> list[str]:
    try:
        return read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path} cannot be read as a DOTA file: {shortened(error)}.") from error


def _parse_object(words: Sequence[str], where: str) -> OrientedObject:
    if len(words) not in {9, 10} or (len(words) == 10 and words[9] not in {"0", "1", "2"}):
        raise AnnotationError(f"{where}: expected x1 y1 x2 y2 x3 y3 x4 y4 category [difficult 0 or 1].")
    corners = _parse_numbers(words[:8], where).reshape(4, 2)
    if _area(corners) <= 0:
        raise AnnotationError(f"{where}: the corners enclose no area.")
    return OrientedObject(corners, words[8], len(words) == 10 and words[9] != "0")


def _area(corners: Array) -> float:
    """Area of the rectangle around the corners: 0 for a line, positive for a bow tie."""
    return float((corners.max(axis=0) - corners.min(axis=0)).prod())


def _parse_numbers(words: Sequence[str], where: str) -> Array:
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise AnnotationError(f"{where}: {shortened(error)}.") from error
    if not np.isfinite(numbers).all():
        raise AnnotationError(f"{where}: a coordinate is NaN or infinite.")
    return numbers


def read_task2(folder: Path, *, images: Sequence[DotaImage]) -> dict[str, list[HorizontalBox]]:
    """Read a detector's horizontal boxes from `Task2_<category>.txt` files: `image score x1 y1 x2 y2` a line.

    Returns:
        Image's name → boxes; images without boxes have an empty list.

    Raises:
        AnnotationError: no such files, no boxes, a malformed line, or an image that is not in the data set.
    """
    files = sorted(folder.glob(f"{_TASK2}*.txt")) if folder.is_dir() else []
    if not files:
        raise AnnotationError(f"{folder} holds no {_TASK2}<category>.txt files of a detector.")
    boxes: dict[str, list[HorizontalBox]] = {image.name: [] for image in images}
    for path in files:
        category = path.stem.removeprefix(_TASK2)
        for number, line in enumerate(_read_lines(path), start=1):
            words, where = line.split(), f"{path}, line {number}"
            if not words:
                continue
            if len(words) != 6 or words[0] not in boxes:
                reason = (
                    "expected image score x1 y1 x2 y2"
                    if len(words) != 6
                    else f"{shortened(words[0])} is not in the data set"
                )
                raise AnnotationError(f"{where}: {reason}.")
            score, *box = _parse_numbers(words[1:], where)
            boxes[words[0]].append(HorizontalBox(np.array(box), category, float(score)))
    if not any(boxes.values()):
        raise AnnotationError(f"{folder}: the detector's files hold no boxes.")
    return boxes


@dataclass(frozen=True)
class Tile:
    """A part of an image, in its pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def box(self) -> Array:
        """x1, y1, x2, y2."""
        return np.array([self.x, self.y, self.x + self.width, self.y + self.height], dtype=np.float64)


def make_tiles(width: int, height: int, *, size: int, overlap: int) -> list[Tile]:
    """Cover an image with tiles of size × size pixels; neighbours share at least `overlap` pixels.

    The last tiles of a row or column move back to the border, so that all are whole. A small image is one tile.

    Raises:
        ValueError: the overlap is not smaller than the size.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"an overlap of {overlap} does not fit tiles of {size} pixels")
    return [
        Tile(x, y, min(size, width), min(size, height))
        for y in _starts(height, size, size - overlap)
        for x in _starts(width, size, size - overlap)
    ]


def _starts(length: int, size: int, step: int) -> list[int]:
    last = max(0, length - size)
    return sorted({*range(0, last, step), last})


def find_tiles(box: Array, tiles: Sequence[Tile], *, share: float = 0.7) -> list[int]:
    """Find the tiles with at least `share` of a box's area; without such a tile, the one with the largest part."""
    overlaps = [_overlap(box, tile.box) for tile in tiles]
    area = max(_overlap(box, box), 1e-12)
    enough = [index for index, value in enumerate(overlaps) if value >= share * area]
    return enough or [int(np.argmax(overlaps))]


def _overlap(first: Array, second: Array) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    return float(sides.clip(min=0).prod())
