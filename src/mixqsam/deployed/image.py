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
        mean: of each channel, of values in 0 … 1.
        std: likewise.
        raw: the encoder normalises and pads by itself.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    raw: bool

    def visible(self, original: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image within the frame: its longer side is the frame's."""
        return resized_size(*original, side=self.size)

    def frame(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image as [1, 3, S, S], at the top left; or as [height, width, 3] of 0 … 255 for a raw encoder."""
        height, width = self.visible((image.height, image.width))
        return self.frame_of_resized(
            np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
        )

    def frame_of_resized(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `frame`, of pixels [height, width, 3] of 0 to 255 that are as large as the frame already."""
        if self.raw:
            return pixels
        height, width = pixels.shape[:2]
        normal = (pixels / 255 - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        frame = np.zeros((1, 3, self.size, self.size), dtype=np.float32)
        frame[0, :, :height, :width] = normal.transpose(2, 0, 1)
        return frame
