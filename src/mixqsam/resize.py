"""What brings an image and its coordinates to the encoder's frame, by the names of segment-anything's clients."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mixqsam.errors import InputError
from mixqsam.pixels import from_input
from mixqsam.prompts import Prompts


@dataclass(frozen=True)
class PixelSettings:
    """How the pixels of an image become the encoder's input.

    Attributes:
        longest: what the longer side of an image becomes, in pixels.
        resample: Pillow's number of the filter.
        factor: what values of 0 to 255 are multiplied by.
        mean: of each channel, subtracted after that.
        std: of each channel, which the difference is divided by.
    """

    longest: int
    resample: int
    factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def resized_size(height: int, width: int, *, side: int) -> tuple[int, int]:
    """Height and width of an image whose longer side becomes `side`; a thin image keeps one pixel."""
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


class Resize:
    """Scale the longer side of an image to the frame's.

    Args:
        target_length: what the longer side becomes, in pixels.
        resample: Pillow's number of the filter.
    """

    def __init__(self, target_length: int, *, resample: int = Image.Resampling.BILINEAR) -> None:
        self.target_length, self.resample = target_length, Image.Resampling(resample)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image within the frame."""
        return resized_size(height, width, side=self.target_length)

    def get_preprocess_shape(self, oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Height and width of an image whose longer side becomes `long_side_length`."""
        return resized_size(oldh, oldw, side=long_side_length)

    def apply_image(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """An image [height, width, 3] of uint8 at the frame's size.

        Raises:
            InputError: it is something else.
        """
        picture = from_input(image)
        height, width = self.size(picture.height, picture.width)
        return np.array(picture.resize((width, height), self.resample))

    def apply_image_torch(self, image: Any) -> Any:
        """Images, a tensor [B, C, height, width] of floats, at the frame's size."""
        from torch.nn import functional  # noqa: PLC0415  (exported models run without it)

        size = self.size(int(image.shape[-2]), int(image.shape[-1]))
        return functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords(self, coords: Any, original_size: tuple[int, ...]) -> NDArray[np.float64]:
        """Points [..., 2] of an image (height, width) in the frame's pixels."""
        return np.asarray(coords, dtype=np.float64) * self._factors(original_size)

    def apply_boxes(self, boxes: Any, original_size: tuple[int, ...]) -> NDArray[np.float64]:
        """Boxes [P, 4] of an image (height, width) in the frame's pixels."""
        return self.apply_coords(np.asarray(boxes).reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Any, original_size: tuple[int, ...]) -> Any:
        """As `apply_coords`, of a tensor."""
        scaled = coords.clone().float()
        return scaled * scaled.new_tensor(self._factors(original_size).tolist())

    def apply_boxes_torch(self, boxes: Any, original_size: tuple[int, ...]) -> Any:
        """As `apply_boxes`, of a tensor."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def undo(self, prompts: Prompts, original_size: tuple[int, ...]) -> Prompts:
        """Prompts in the frame's pixels, back in those of the image (height, width)."""
        factors = self._factors(original_size)
        return replace(
            prompts,
            boxes=None if prompts.boxes is None else prompts.boxes / np.tile(factors, 2),
            points=None if prompts.points is None else prompts.points / factors,
        )

    def _factors(self, original_size: tuple[int, ...]) -> NDArray[np.float64]:
        """Of x and y."""
        height, width = original_size
        new_height, new_width = self.size(height, width)
        return np.array([new_width / width, new_height / height])


class Stretch(Resize):
    """Scale both sides of an image to the frame's."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image within the frame: all of it."""
        del height, width
        return self.target_length, self.target_length

    def get_preprocess_shape(self, oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Height and width of an image whose sides become `long_side_length`."""
        del oldh, oldw
        return long_side_length, long_side_length


def resized_pixels(
    image: Any, original_size: tuple[int, ...], *, transform: Resize
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """The arguments of segment-anything's `set_torch_image` as pixels [height, width, 3], and the size before.

    Raises:
        InputError: another shape or size, or values that are not finite.
    """
    side = transform.target_length
    expected = f"expected [1, 3, height, width] with {side} as the longer side: transform.apply_image makes it"
    try:
        values = image.detach().cpu().float().numpy() if hasattr(image, "detach") else np.asarray(image, np.float32)
        height, width = (int(value) for value in original_size)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"set_torch_image takes a tensor and the height and width of the image before; {expected}."
        ) from error
    if values.ndim != 4 or values.shape[:2] != (1, 3) or max(values.shape[2:]) != side:
        raise InputError(f"The image has shape {values.shape}; {expected}.")
    if min(height, width) < 1 or not np.isfinite(values).all():
        raise InputError(f"The image holds NaN or infinity, or its size before is {height}×{width}.")
    expected_size = transform.size(height, width)
    if values.shape[2:] != expected_size:
        raise InputError(
            f"The image has {values.shape[2]}×{values.shape[3]} pixels, but {height}×{width} becomes "
            f"{expected_size[0]}×{expected_size[1]}; give height and width of the image before transform.apply_image."
        )
    return np.ascontiguousarray(values[0].transpose(1, 2, 0)), (height, width)
