"""Overlapping crops of an image, each of which is segmented as an image: what is small becomes large enough.

Layers, overlap and edges are those of Meta's generator (arXiv 2304.02643, appendix B, “Cropping”).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixqsam.errors import InputError
from mixqsam.prompts import Array
from mixqsam.sam.automatic_options import Automatic

# A mask that comes this close to the edge of its crop, in pixels, was probably cut there.
_EDGE = 20.0


@dataclass(frozen=True)
class Crop:
    """A part of an image.

    Attributes:
        left, top, right, bottom: its corners in the image's pixels, the last ones outside of it.
        side: points per side of its grid.
    """

    left: int
    top: int
    right: int
    bottom: int
    side: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The corners as x1, y1, x2, y2."""
        return self.left, self.top, self.right, self.bottom

    @property
    def area(self) -> int:
        """Number of pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


def make_crops(height: int, width: int, options: Automatic) -> list[Crop]:
    """Make the crops of an image: the image itself, then layer n with 2^n × 2^n parts.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        options: number of layers, overlap, points.

    Raises:
        InputError: a side of the image has fewer pixels than crops.
    """
    least = 2**options.crop_layers
    if options.crop_layers and min(height, width) < least:
        layers = "layer" if options.crop_layers == 1 else "layers"
        raise InputError(
            f"An image of {width}×{height} pixels is too small for {options.crop_layers} {layers} of crops, which cut "
            f"each side into {least}; choose fewer layers."
        )
    crops = [Crop(0, 0, width, height, options.side)]
    for layer in range(1, options.crop_layers + 1):
        parts = 2**layer
        overlap = int(options.crop_overlap * min(height, width) * 2 / parts)
        columns, rows = (_cut(length, parts, overlap) for length in (width, height))
        side = max(1, int(options.side / options.crop_downscale**layer))
        crops += [Crop(left, top, right, bottom, side) for left, right in columns for top, bottom in rows]
    # Where they overlap wholly, several are the same.
    return list(dict.fromkeys(crops))


def _cut(length: int, parts: int, overlap: int) -> list[tuple[int, int]]:
    """First and last pixels, the last ones excluded, of equal parts of a side that overlap."""
    size = math.ceil((overlap * (parts - 1) + length) / parts)
    starts = [(size - overlap) * part for part in range(parts)]
    return [(start, min(start + size, length)) for start in starts]


def is_whole(boxes: Array, crop: Crop, *, height: int, width: int) -> NDArray[np.bool_]:
    """Say which boxes the edge of a crop has not cut; the edge of the image cuts none.

    Args:
        boxes: [n, 4], x1, y1, x2, y2 in the crop's pixels, the last ones outside of the box.
        crop: their crop.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        A boolean for each box.
    """
    # Corners are those of the last pixels here, as Meta's are.
    corners = boxes + np.array([crop.left, crop.top, crop.left - 1, crop.top - 1])
    at_crop, at_image = (np.abs(corners - edge) <= _EDGE for edge in (crop.box, (0, 0, width, height)))
    whole: NDArray[np.bool_] = ~(at_crop & ~at_image).any(axis=1)
    return whole
