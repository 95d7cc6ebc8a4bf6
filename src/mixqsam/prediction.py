"""What a model says of an image, and what a predictor is, whatever runs it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from mixqsam.errors import InputError
from mixqsam.prompts import Prompts

# Logits above this are the object.
MASK_THRESHOLD = 0.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """Masks of one image.

    Attributes:
        masks: [P, M, height, width], of the original image.
        scores: [P, M], the IoU that the model predicts for its own mask.
        logits: [P, M, 4h, 4w], low resolution, padding included.
        visible: height and width of the part of `logits` that shows the image.
    """

    masks: NDArray[np.bool_]
    scores: Floats
    logits: Floats
    visible: tuple[int, int]

    def best(self) -> "Prediction":
        """Of each prompt's masks the one with the highest predicted IoU: M becomes 1."""
        rows, best = np.arange(len(self.scores)), self.scores.argmax(axis=1)
        masks, scores, logits = (one[rows, best][:, None] for one in (self.masks, self.scores, self.logits))
        return Prediction(masks, scores, logits, self.visible)


class Predictor(ABC):
    """Encode an image once, prompt it often.

    `predict` has the arguments and results of segment-anything's `SamPredictor.predict`; `segment` is what the rest of
    mixqsam uses.
    """

    mask_threshold = MASK_THRESHOLD

    @abstractmethod
    def set_image(self, image: Image.Image | NDArray[np.uint8]) -> None:
        """Encode an RGB image (Pillow, or uint8 [height, width, 3]); later prompts are about it."""

    @abstractmethod
    def segment(self, prompts: Prompts, *, multimask: bool = False) -> Prediction:
        """Masks for prompts in the image's pixels: three for each, or one.

        Raises:
            InputError: no image has been set, or there are no prompts.
        """

    @abstractmethod
    def full_logits(self, logits: Floats) -> Floats:
        """Low-resolution logits [P, M, 4h, 4w] → logits [P, M, height, width] of the image."""

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[np.bool_] | Floats, Floats, Floats]:
        """Masks for one prompt, or for several boxes at once.

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
        prompts, several = _prompts(point_coords, point_labels, box, mask_input)
        found = self.segment(prompts, multimask=multimask_output)
        masks: NDArray[np.bool_] | Floats = self.full_logits(found.logits) if return_logits else found.masks
        if several:
            return masks, found.scores, found.logits
        return masks[0], found.scores[0], found.logits[0]


def _prompts(
    point_coords: ArrayLike | None, point_labels: ArrayLike | None, box: ArrayLike | None, mask_input: ArrayLike | None
) -> tuple[Prompts, bool]:
    if (point_coords is None) != (point_labels is None):
        raise InputError("point_coords and point_labels go together; give both or neither.")
    boxes = None if box is None else np.asarray(box, dtype=np.float64)
    several = boxes is not None and boxes.ndim == 2
    points = None if point_coords is None else np.asarray(point_coords, dtype=np.float64)
    labels = None if point_labels is None else np.asarray(point_labels, dtype=np.int64)
    masks = None if mask_input is None else np.asarray(mask_input, dtype=np.float32)
    _check(boxes is None or (boxes.shape[-1:] == (4,) and boxes.ndim <= 2), "box", "[4] or [P, 4]", boxes)
    _check(points is None or (points.ndim == 2 and points.shape[1] == 2), "point_coords", "[N, 2]", points)
    _check(points is None or (labels is not None and labels.shape == points.shape[:1]), "point_labels", "[N]", labels)
    _check(masks is None or (masks.ndim == 3 and len(masks) == 1), "mask_input", "[1, 4h, 4w]", masks)
    if several and (points is not None or masks is not None):
        raise InputError("Several boxes are prompts of their own; give points or a mask with one box at a time.")
    return (
        Prompts(
            boxes=None if boxes is None else boxes.reshape(-1, 4),
            points=None if points is None else points[None],
            labels=None if labels is None else labels[None],
            masks=None if masks is None else masks[None],
        ),
        several,
    )


def _check(fits: bool, name: str, expected: str, found: NDArray[np.generic] | None) -> None:
    if not fits:
        raise InputError(f"{name} has shape {None if found is None else found.shape}; expected {expected}.")
