"""Frames that images are stretched to: SAM 2 and SAM 3 see a square, whatever the shape of the image.

transformers' own processors of these families need torchvision, which mixqsam does not install.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.image_processing_base import ImageProcessingMixin

from mixqsam.families.family import Framing
from mixqsam.families.image_processor import check_fields, settings_of

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class SquareProcessor(ImageProcessingMixin):  # type: ignore[misc]
    """The fields of a `preprocessor_config.json` of these families; those that are not given have SAM 2's values."""

    def __init__(self, **fields: Any) -> None:
        usual = {
            "do_convert_rgb": True,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "size": {"height": 1024, "width": 1024},
            "resample": int(Image.Resampling.BILINEAR),
            "rescale_factor": 1 / 255,
            "image_mean": list(IMAGENET[0]),
            "image_std": list(IMAGENET[1]),
        }
        super().__init__(**(usual | fields))


def square_framing(
    image_size: Callable[[Any], int], *, public: str, statistics: tuple[tuple[float, ...], tuple[float, ...]]
) -> Framing:
    """The framing of a family that stretches images.

    Args:
        image_size: configuration → side of the frame.
        public: the processor's name in files.
        statistics: mean and standard deviation of each channel, where a checkpoint has no processor.
    """

    def default(config: Any) -> SquareProcessor:
        side = image_size(config)
        mean, std = map(list, statistics)
        return SquareProcessor(size={"height": side, "width": side}, image_mean=mean, image_std=std)

    return Framing(
        image_size=image_size,
        processor=SquareProcessor,
        default=default,
        check=lambda processor, config: _check(processor, image_size(config)),
        settings=settings_of,
        apply=_stretch,
        apply_resized=_normalise,
        public=public,
        stretches=True,
    )


def _check(processor: Any, side: int) -> None:
    """Refuse a processor that does not stretch images to a square of `side` pixels.

    Raises:
        ValueError: the message names the field.
    """
    check_fields(processor, needed={"do_resize": "images have to be stretched to the model's size"})
    if getattr(processor, "do_pad", None):
        raise ValueError("do_pad is true, but images are stretched to the whole frame")
    size = dict(processor.size)
    if (size.get("height"), size.get("width")) != (side, side):
        raise ValueError(f"size is {size!r:.80}; expected height and width of {side}, the model's size")
    settings_of(processor)


def _stretch(processor: Any, image: Image.Image) -> tuple[Tensor, tuple[int, int]]:
    settings = settings_of(processor)
    side = (settings.longest, settings.longest)
    resized = image.convert("RGB").resize(side, Image.Resampling(settings.resample))
    return _normalise(processor, np.asarray(resized, dtype=np.float32))


def _normalise(processor: Any, pixels: NDArray[np.float32]) -> tuple[Tensor, tuple[int, int]]:
    settings = settings_of(processor)
    mean, std = (np.array(values, dtype=np.float32) for values in (settings.mean, settings.std))
    normal = (pixels * np.float32(settings.factor) - mean) / std
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))[None], pixels.shape[:2]
