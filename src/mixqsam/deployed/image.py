"""From an image to the frame that the encoder takes, by numpy and Pillow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mixqsam.resize import resized_size


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared.

    Attributes:
        size: side of the frame.
        mean: of each channel, of values times `factor`.
        std: likewise.
        raw: the encoder normalises and pads by itself.
        longest: what the longer side of an image becomes; None for the size of the frame.
        resample: Pillow's number of the filter that scales.
        factor: what values of 0 to 255 are multiplied by.
        stretches: both sides of an image become those of the frame.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    raw: bool
    longest: int | None = None
    resample: int = Image.Resampling.BILINEAR
    factor: float = 1 / 255
    stretches: bool = False

    @property
    def longest_side(self) -> int:
        """What the longer side of an image becomes, in pixels."""
        return self.size if self.longest is None else self.longest

    def visible(self, original: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image within the frame."""
        side = self.longest_side
        return (side, side) if self.stretches else resized_size(*original, side=side)

    def frame(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image as [1, 3, S, S], at the top left; or as [height, width, 3] of 0 … 255 for a raw encoder."""
        height, width = self.visible((image.height, image.width))
        return self.frame_of_resized(
            np.asarray(image.resize((width, height), Image.Resampling(self.resample)), dtype=np.float32)
        )

    def frame_of_resized(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `frame`, of pixels [height, width, 3] of 0 to 255 that are as large as the frame already."""
        if self.raw:
            return pixels
        height, width = pixels.shape[:2]
        normal = (pixels * np.float32(self.factor) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        frame = np.zeros((1, 3, self.size, self.size), dtype=np.float32)
        frame[0, :, :height, :width] = normal.transpose(2, 0, 1)
        return frame
