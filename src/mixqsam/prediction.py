"""Predictions for an image, and the interface of all predictors."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from mixqsam.errors import InputError
from mixqsam.prompts import Prompts

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


class Predictor(ABC):
    """Encodes an image once for many prompts.

    `predict` has the arguments and results of segment-anything's `SamPredictor.predict`. The rest of mixqsam uses
    `segment`.
    """

    mask_threshold = MASK_THRESHOLD

    @abstractmethod
    def set_image(self, image: Image.Image | NDArray[np.uint8]) -> None:
        """Encode an RGB image (Pillow, or uint8 [height, width, 3]) for the next prompts."""

    @abstractmethod
    def segment(self, prompts: Prompts, *, multimask: bool = False, full: bool = False) -> Prediction:
        """Segment an image with prompts in its pixels.

        Args:
            prompts: boxes or points, and masks to start from.
            multimask: three masks for each prompt instead of one.
            full: also return the logits at the image's resolution (4 bytes for each pixel of each mask).

        Raises:
            InputError: no image has been set, or there are no prompts.
        """

    @abstractmethod
    def reset_image(self) -> None:
        """Forget the image."""

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
            point_labels: [N], 1 for the object and 0 for the background.
            box: [4] as x1, y1, x2, y2; or [P, 4] for P prompts (without points and mask then).
            mask_input: [1, 4h, 4w], low-resolution logits of an earlier prediction.
            multimask_output: three masks instead of one.
            return_logits: logits instead of booleans.

        Returns:
            masks [M, height, width], predicted IoU [M] and low-resolution logits [M, 4h, 4w]; for P boxes each of them
            has a first axis of length P.

        Raises:
            InputError: no image has been set, there is no prompt, or shapes do not fit.
        """
        prompts, has_many_boxes = _parse_prompts(point_coords, point_labels, box, mask_input)
        prediction = self.segment(prompts, multimask=multimask_output, full=return_logits)
        masks = prediction.masks if prediction.full is None else prediction.full
        if has_many_boxes:
            return masks, prediction.scores, prediction.logits
        return masks[0], prediction.scores[0], prediction.logits[0]

    @abstractmethod
    def keep(self) -> object:
        """Return the encoding that `set_image` computed, for `restore`; None without an image."""

    @abstractmethod
    def restore(self, encoding: object) -> None:
        """Set an image again from its encoding, without encoding it again."""

    # Attributes that clients of segment-anything's predictor need, such as its SamAutomaticMaskGenerator.

    @property
    def device(self) -> str:
        """Device for the clients' tensors."""
        return "cpu"

    @property
    def model(self) -> SimpleNamespace:
        """Properties of the model that clients read."""
        return SimpleNamespace(mask_threshold=MASK_THRESHOLD, image_format="RGB", device="cpu")

    @property
    def transform(self) -> "IdentityTransform":
        """Transform of coordinates before `predict_torch`; here they stay in the image's pixels."""
        return IdentityTransform()

    def predict_torch(
        self,
        point_coords: Any,
        point_labels: Any,
        boxes: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Any, Any, Any]:
        """Segment an image with P prompts as tensors, as segment-anything's method does.

        Args:
            point_coords: [P, N, 2] or None, after `transform`.
            point_labels: [P, N] or None.
            boxes: [P, 4] or None.
            mask_input: [P, 1, 4h, 4w] or None.
            multimask_output: three masks for each prompt instead of one.
            return_logits: logits instead of booleans.

        Returns:
            Tensors: masks [P, M, height, width], predicted IoU [P, M], low-resolution logits [P, M, 4h, 4w].
        """
        import torch  # noqa: PLC0415  (exported models run without it)

        def to_numpy(tensor: Any, kind: Any) -> Any:
            return None if tensor is None else tensor.detach().cpu().numpy().astype(kind)

        prompts = Prompts(
            to_numpy(boxes, np.float64),
            to_numpy(point_coords, np.float64),
            to_numpy(point_labels, np.int64),
            to_numpy(mask_input, np.float32),
        )
        prediction = self.segment(prompts, multimask=multimask_output, full=return_logits)
        masks = prediction.masks if prediction.full is None else prediction.full
        return torch.from_numpy(masks), torch.from_numpy(prediction.scores), torch.from_numpy(prediction.logits)


class IdentityTransform:
    """A transform that leaves coordinates unchanged."""

    def apply_coords(self, coords: Any, original_size: tuple[int, int]) -> Any:
        """Return the coordinates unchanged."""
        del original_size
        return coords

    apply_coords_torch = apply_boxes = apply_boxes_torch = apply_coords


def check_prompts(prompts: Prompts, *, image_is_set: bool) -> None:
    """Check that there are an image and prompts.

    Raises:
        InputError: no image has been set, or there are no prompts.
    """
    if not image_is_set:
        raise InputError("No image has been set; call set_image first.")
    if not len(prompts):
        raise InputError("There are no prompts; give at least one box or point.")


def _parse_prompts(
    point_coords: ArrayLike | None, point_labels: ArrayLike | None, box: ArrayLike | None, mask_input: ArrayLike | None
) -> tuple[Prompts, bool]:
    if (point_coords is None) != (point_labels is None):
        raise InputError("point_coords and point_labels go together; give both or neither.")
    boxes = None if box is None else np.asarray(box, dtype=np.float64)
    has_many_boxes = boxes is not None and boxes.ndim == 2
    points = None if point_coords is None else np.asarray(point_coords, dtype=np.float64)
    labels = None if point_labels is None else np.asarray(point_labels, dtype=np.int64)
    masks = None if mask_input is None else np.asarray(mask_input, dtype=np.float32)
    _check_shape(boxes is None or (boxes.shape[-1:] == (4,) and boxes.ndim <= 2), "box", "[4] or [P, 4]", boxes)
    _check_shape(points is None or (points.ndim == 2 and points.shape[1] == 2), "point_coords", "[N, 2]", points)
    _check_shape(
        points is None or (labels is not None and labels.shape == points.shape[:1]), "point_labels", "[N]", labels
    )
    _check_shape(masks is None or (masks.ndim == 3 and len(masks) == 1), "mask_input", "[1, 4h, 4w]", masks)
    if has_many_boxes and (points is not None or masks is not None):
        raise InputError("Points and masks do not go with several boxes; give one box with points or a mask.")
    return (
        Prompts(
            boxes=None if boxes is None else boxes.reshape(-1, 4),
            points=None if points is None else points[None],
            labels=None if labels is None else labels[None],
            masks=None if masks is None else masks[None],
        ),
        has_many_boxes,
    )


def _check_shape(fits: bool, name: str, expected: str, values: NDArray[np.generic] | None) -> None:
    if not fits:
        raise InputError(f"{name} has shape {None if values is None else values.shape}; expected {expected}.")
