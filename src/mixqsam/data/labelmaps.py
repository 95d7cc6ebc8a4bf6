"""Label maps: for each image a picture of the same size whose pixels are class numbers.

`labels/x.png` belongs to `images/x.jpg`. Grey or palette PNG; 255 is "not labelled", and counts nowhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from mixqsam.data.images import list_images
from mixqsam.errors import AnnotationError, shortened
from mixqsam.prompts import Array, Prompts

UNLABELLED = 255
_REFUSALS = (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning)
LabelMap = NDArray[np.uint8]


@dataclass(frozen=True)
class LabelledImage:
    """An image and its label map's file."""

    path: Path
    labels: Path

    def read(self, *, width: int, height: int) -> LabelMap:
        """Read the label map [height, width].

        Raises:
            AnnotationError: it cannot be read, is not a map of single numbers, or does not have the image's size.
        """
        try:
            with Image.open(self.labels) as picture:
                if picture.size != (width, height):
                    raise AnnotationError(
                        f"{self.labels} is {picture.width}×{picture.height} pixels, {self.path} is {width}×{height}."
                    )
                if picture.mode not in {"L", "P", "1"}:
                    raise AnnotationError(
                        f"{self.labels} is a picture in {picture.mode}, not a map of class numbers (grey or palette)."
                    )
                label_map: LabelMap = np.asarray(
                    picture if picture.mode != "1" else picture.convert("L"), dtype=np.uint8
                )
        except (OSError, ValueError, SyntaxError, MemoryError, *_REFUSALS) as error:
            raise AnnotationError(f"{self.labels} cannot be read as a label map: {shortened(error)}.") from error
        return label_map


def read_labelled(images: Path, labels: Path) -> list[LabelledImage]:
    """Pair all images of a folder with their label maps.

    Raises:
        ImageError: the folder does not hold an image.
        AnnotationError: an image has no label map.
    """
    if not labels.is_dir():
        raise AnnotationError(f"{labels} is not a folder; give the folder of label maps (PNG).")
    labelled = []
    for path in list_images(images):
        label = labels / path.relative_to(images).with_suffix(".png")
        if not label.is_file():
            raise AnnotationError(f"{path} has no label map: expected {label}.")
        labelled.append(LabelledImage(path, label))
    return labelled


@dataclass(frozen=True)
class Regions:
    """Connected regions of one class each.

    Attributes:
        classes: of each region.
        boxes: [n, 4] around each.
        points: [n, 2], a pixel inside each, as far from its border as any.
    """

    classes: NDArray[np.uint8]
    boxes: Array
    points: Array

    def prompts(self, kind: str) -> Prompts:
        """A prompt for each region: `boxes`, or `points`."""
        if kind == "boxes":
            return Prompts(boxes=self.boxes)
        return Prompts(points=self.points[:, None], labels=np.ones((len(self.points), 1), dtype=np.int64))


def find_regions(labels: LabelMap, *, background: Sequence[int] = (), least: int = 64) -> Regions:
    """Regions of at least `least` pixels, of all classes but the background's and the unlabelled."""
    classes, boxes, points = [], [], []
    for value in np.unique(labels).tolist():
        if value == UNLABELLED or value in background:
            continue
        parts, _ = ndimage.label(labels == value)
        sizes = np.bincount(parts.ravel())
        for number, place in enumerate(ndimage.find_objects(parts), start=1):
            if sizes[number] < least:
                continue
            rows, columns = place
            inside = np.pad(parts[place] == number, 1)
            y, x = np.unravel_index(int(ndimage.distance_transform_edt(inside).argmax()), inside.shape)
            classes.append(value)
            boxes.append([columns.start, rows.start, columns.stop, rows.stop])
            points.append([columns.start + int(x) - 0.5, rows.start + int(y) - 0.5])
    return Regions(
        np.array(classes, dtype=np.uint8),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(points, dtype=np.float64).reshape(-1, 2),
    )
