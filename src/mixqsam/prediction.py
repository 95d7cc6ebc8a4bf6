"""Predictions for an image, and the interface of all predictors."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from mixqsam.arguments import parse_prompt_arguments, parse_prompt_tensors
from mixqsam.errors import InputError
from mixqsam.pixels import from_input
from mixqsam.prompts import Prompts
from mixqsam.resize import Resize, Stretch, resized_pixels

# Pixels with logits above this belong to the object.
MASK_THRESHOLD = 0.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """Masks of one image.

    Attributes:
        masks: [P, M, height, width], of the original image.
        scores: [P, M], the IoU that the model predicts for each mask.
        logits: [P, M, 4h, 4w], low resolution, padding included.
        visible: height and width of the part of `logits` that shows the image.
        full: [P, M, height, width], the logits of `masks` at the image's resolution, if requested.
    """

    masks: NDArray[np.bool_]
    scores: Floats
    logits: Floats
    visible: tuple[int, int]
    full: Floats | None = None

    def best(self) -> "Prediction":
        """Keep each prompt's mask with the highest predicted IoU: M becomes 1."""
        rows, best = np.arange(len(self.scores)), self.scores.argmax(axis=1)
        masks, scores, logits = (values[rows, best][:, None] for values in (self.masks, self.scores, self.logits))
        return Prediction(masks, scores, logits, self.visible)


@dataclass(frozen=True)
class Candidates:
    """Masks of one image before they are drawn at its size.

    Attributes:
        scores: [P, M], the IoU that the model predicts for each mask.
        logits: [P, M, 4h, 4w], low resolution, padding included.
        visible: height and width of the part of `logits` that shows the image.
        draw: from booleans [P, M], n of them true, to the masks [n, height, width] of the original image.
    """

    scores: Floats
    logits: Floats
    visible: tuple[int, int]
    draw: Callable[[NDArray[np.bool_]], NDArray[np.bool_]]


class Predictor(ABC):
    """Encodes an image once for many prompts.

    Methods with a name of segment-anything's `SamPredictor` have its arguments and results. The rest of mixqsam uses
    `segment`. Wrong arguments raise an `InputError`, the same with every runtime.
    """

    mask_threshold = MASK_THRESHOLD
    image_format = "RGB"

    # Each runtime implements these.

    @property
    @abstractmethod
    def frame_side(self) -> int:
        """Side of the square that the encoder takes, in pixels."""

    @property
    def resized_side(self) -> int:
        """What the longer side of an image becomes within the frame, in pixels."""
        return self.frame_side

    @property
    def resample(self) -> int:
        """Pillow's number of the filter that images are scaled with."""
        return int(Image.Resampling.BILINEAR)

    @property
    def stretches(self) -> bool:
        """Whether both sides of an image become the frame's; otherwise the longer one does."""
        return False

    @property
    @abstractmethod
    def original_size(self) -> tuple[int, int] | None:
        """Height and width of the image; None without an image."""

    @property
    @abstractmethod
    def features(self) -> Any:
        """The image's embedding [1, C, h, w], as a tensor; None without an image."""

    @abstractmethod
    def encode_image(self, image: Image.Image) -> None:
        """Encode an RGB image for the next prompts."""

    @abstractmethod
    def encode_resized(self, pixels: Floats, *, original: tuple[int, int]) -> None:
        """Encode an image that already has the size of the frame.

        Args:
            pixels: [height, width, 3], values of 0 to 255; the longer side is `resized_side`.
            original: the image's height and width before the resize.
        """

    @abstractmethod
    def segment(self, prompts: Prompts, *, multimask: bool = False, full: bool = False) -> Prediction:
        """Segment an image with prompts in its pixels.

        Args:
            prompts: boxes or points, and masks to start from.
            multimask: three masks for each prompt instead of one.
            full: also return the logits at the image's resolution (4 bytes for each pixel of each mask).

        Raises:
            InputError: no image has been set, there are no prompts, or they cannot be used.
        """

    def propose(self, prompts: Prompts) -> Candidates:
        """Find three masks for each prompt, and draw none of them yet; `Candidates.draw` draws those that are chosen.

        Args:
            prompts: boxes or points in the image's pixels.

        Raises:
            InputError: as `segment` does.
        """
        found = self.segment(prompts, multimask=True)
        return Candidates(found.scores, found.logits, found.visible, lambda chosen: found.masks[chosen])

    @abstractmethod
    def reset_image(self) -> None:
        """Forget the image."""

    @abstractmethod
    def keep(self) -> object:
        """Return the encoding that `set_image` computed, for `restore`; None without an image."""

    @abstractmethod
    def restore(self, encoding: object) -> None:
        """Set an image again from its encoding, without encoding it again."""

    # The interface of segment-anything's predictor.

    @property
    def is_image_set(self) -> bool:
        """Whether an image is set."""
        return self.original_size is not None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of the image within the frame; None without an image."""
        return None if self.original_size is None else self.transform.size(*self.original_size)

    @property
    def device(self) -> str:
        """Device for the clients' tensors."""
        return "cpu"

    @property
    def model(self) -> SimpleNamespace:
        """Properties of the model that clients read, such as segment-anything's SamAutomaticMaskGenerator."""
        encoder = SimpleNamespace(img_size=self.frame_side)
        return SimpleNamespace(
            mask_threshold=MASK_THRESHOLD, image_format=self.image_format, device="cpu", image_encoder=encoder
        )

    @property
    def transform(self) -> Resize:
        """Transform of images and coordinates to the frame, for `set_torch_image` and `predict_torch`."""
        kind = Stretch if self.stretches else Resize
        return kind(self.resized_side, resample=self.resample)

    def set_image(self, image: Image.Image | NDArray[Any], image_format: str = "RGB") -> None:
        """Encode an image for the next prompts.

        Args:
            image: a Pillow image, or uint8 [height, width, 3].
            image_format: order of the channels, `RGB` or `BGR`.

        Raises:
            InputError: it is not such an image; the message says what to do.
            ImageError: its pixels cannot be decoded, or their range is unknown.
        """
        self.encode_image(from_input(image, image_format=image_format))

    def set_torch_image(self, transformed_image: Any, original_image_size: tuple[int, ...]) -> None:
        """Encode an image that went through `transform.apply_image`.

        Args:
            transformed_image: tensor [1, 3, height, width], values of 0 to 255, its longer side `resized_side`.
            original_image_size: height and width of the original image.

        Raises:
            InputError: the tensor has another shape, or values that are not finite.
        """
        pixels, original = resized_pixels(transformed_image, original_image_size, transform=self.transform)
        self.reset_image()
        self.encode_resized(pixels, original=original)

    def get_image_embedding(self) -> Any:
        """The image's embedding, tensor [1, C, h, w].

        Raises:
            InputError: no image has been set.
        """
        if self.features is None:
            raise InputError("No image has been set; call set_image first.")
        return self.features

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[np.bool_] | Floats, Floats, Floats]:
        """Segment an image with one prompt, or with several boxes at once.

        Args:
            point_coords: [N, 2], x and y in the image's pixels.
            point_labels: [N], 1 for the object and 0 for the background; −1 for a point that is ignored.
            box: [4] or [1, 4] as x1, y1, x2, y2; or [P, 4] for P prompts (without points and mask then).
            mask_input: [1, 4h, 4w], low-resolution logits of an earlier prediction; it is a prompt on its own, too.
            multimask_output: three masks instead of one.
            return_logits: logits instead of booleans.

        Returns:
            masks [M, height, width], predicted IoU [M] and low-resolution logits [M, 4h, 4w]; for P > 1 boxes each of
            them has a first axis of length P.

        Raises:
            InputError: no image has been set, there is no prompt, or shapes do not fit.
        """
        prompts, has_many_boxes = parse_prompt_arguments(point_coords, point_labels, box, mask_input)
        prediction = self.segment(prompts, multimask=multimask_output, full=return_logits)
        masks = prediction.masks if prediction.full is None else prediction.full
        if has_many_boxes:
            return masks, prediction.scores, prediction.logits
        return masks[0], prediction.scores[0], prediction.logits[0]

    def predict_torch(
        self,
        point_coords: Any,
        point_labels: Any,
        boxes: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Any, Any, Any]:
        """Segment an image with P prompts as tensors.

        Args:
            point_coords: [P, N, 2] in the frame's pixels (see `transform`), or None.
            point_labels: [P, N] or None.
            boxes: [P, 4] in the frame's pixels, or None.
            mask_input: [P, 1, 4h, 4w] or None.
            multimask_output: three masks for each prompt instead of one.
            return_logits: logits instead of booleans.

        Returns:
            Tensors: masks [P, M, height, width], predicted IoU [P, M], low-resolution logits [P, M, 4h, 4w].

        Raises:
            InputError: no image has been set, there is no prompt, or shapes do not fit.
        """
        import torch  # noqa: PLC0415  (exported models run without it)

        prompts = parse_prompt_tensors(point_coords, point_labels, boxes, mask_input)
        if self.original_size is not None:
            prompts = self.transform.undo(prompts, self.original_size)
        prediction = self.segment(prompts, multimask=multimask_output, full=return_logits)
        masks = prediction.masks if prediction.full is None else prediction.full
        return torch.from_numpy(masks), torch.from_numpy(prediction.scores), torch.from_numpy(prediction.logits)
