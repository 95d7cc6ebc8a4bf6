"""Low-resolution logits drawn at an image's size, by numpy alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Rows and columns that are drawn at once: enough for one product, and few enough for the processor's cache.
_TILE = (256, 64)


@dataclass(frozen=True)
class Canvas:
    """Where logits are drawn: to the frame, cut to the image, and to the image's own size.

    Both steps interpolate bilinearly between the centres of pixels, as `torch.nn.functional.interpolate` does. Each is
    linear in rows and in columns, so one matrix for each axis does both.

    Attributes:
        low: side of the logits.
        frame: side of the frame.
        resized: height and width of the image within the frame, at its top left.
        original: height and width of the image.
        stretches: the image fills the frame, and logits go to its size in one step.
    """

    low: int
    frame: int
    resized: tuple[int, int]
    original: tuple[int, int]
    stretches: bool = False

    def draw(self, logits: Floats) -> Floats:
        """Logits [n, low, low] at the image's size [n, height, width]."""
        drawn = np.empty((len(logits), *self.original), np.float32)
        for one, full in zip(logits, drawn, strict=True):
            for rows, columns, values in self._tiles(one):
                full[rows, columns] = values
        return drawn

    def cut(self, logits: Floats, threshold: float) -> NDArray[np.bool_]:
        """Where logits [n, low, low] lie above a threshold at the image's size [n, height, width]."""
        masks = np.empty((len(logits), *self.original), np.bool_)
        for one, mask in zip(logits, masks, strict=True):
            for rows, columns, values in self._tiles(one):
                np.greater(values, threshold, out=mask[rows, columns])
        return masks

    def _tiles(self, logits: Floats) -> Iterator[tuple[slice, slice, Floats]]:
        """Pieces of the image: rows, columns, and their values."""
        vertical, horizontal = (
            _axis(self.low, None if self.stretches else self.frame, resized, length, tile=tile)
            for resized, length, tile in zip(self.resized, self.original, _TILE, strict=True)
        )
        for rows, source_rows, by_row in vertical:
            lines: Floats = np.matmul(by_row, logits[source_rows])
            for columns, source_columns, by_column in horizontal:
                values: Floats = np.matmul(lines[:, source_columns], by_column.T)
                yield rows, columns, values


# Images of one size come one after the other.
@lru_cache(maxsize=8)
def _axis(
    low: int, frame: int | None, resized: int, length: int, *, tile: int
) -> Sequence[tuple[slice, slice, Floats]]:
    """Tiles along an axis: pixels of the image, places of the logits that they come from, and the shares of these.

    Args:
        low: places of the logits.
        frame: pixels that they are stretched to first; None where they go to the image's size in one step.
        resized: how many of these pixels are kept then.
        length: pixels of the image.
        tile: pixels of a tile.
    """
    places = np.eye(low)
    shares = stretch(places if frame is None else stretch(places, frame)[:resized], length)
    return tuple(_tiles_of(shares, tile))


def _tiles_of(shares: NDArray[np.float64], tile: int) -> Iterator[tuple[slice, slice, Floats]]:
    for start in range(0, len(shares), tile):
        piece = shares[start : start + tile]
        used = np.flatnonzero(piece.any(axis=0))
        places = slice(int(used[0]), int(used[-1]) + 1)
        yield slice(start, start + len(piece)), places, piece[:, places].astype(np.float32)


def stretch(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Interpolate rows [n, …] to `length` rows, bilinearly between the rows' centres; beyond the ends they repeat."""
    centres = np.clip((np.arange(length) + 0.5) * len(values) / length - 0.5, 0, len(values) - 1)
    below = np.floor(centres).astype(np.int64)
    above = np.minimum(below + 1, len(values) - 1)
    share = (centres - below)[:, None]
    stretched: NDArray[np.float64] = values[below] * (1 - share) + values[above] * share
    return stretched
