"""Parse the arguments of predictors into prompts, by the rules of segment-anything."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixqsam.errors import InputError, shortened
from mixqsam.prompts import Prompts

# 1 is the object, 0 the background, −1 a padding point.
LABELS = (-1, 0, 1)


def parse_prompt_arguments(point_coords: Any, point_labels: Any, box: Any, mask_input: Any) -> tuple[Prompts, bool]:
    """Parse the arguments of segment-anything's `predict`; return the prompts, and whether there are several boxes.

    Args:
        point_coords: [N, 2] or None.
        point_labels: [N] or None.
        box: [4] or [1, 4] for one prompt, [P, 4] for several; or None.
        mask_input: [1, 4h, 4w] or None.

    Raises:
        InputError: an argument does not hold numbers, or has another shape.
    """
    _check_pair(point_coords, point_labels)
    boxes = _to_numbers(box, "box")
    points = _to_numbers(point_coords, "point_coords")
    labels = _to_numbers(point_labels, "point_labels")
    masks = _to_numbers(mask_input, "mask_input")
    if boxes is not None:
        _check_shape(boxes.shape == (4,) or (boxes.ndim == 2 and boxes.shape[1] == 4), "box", "[4] or [P, 4]", boxes)
    if points is not None and labels is not None:
        points = points.reshape(0, 2) if not points.size else points
        _check_shape(points.ndim == 2 and points.shape[1] == 2, "point_coords", "[N, 2]", points)
        _check_shape(labels.shape == points.shape[:1], "point_labels", f"[{len(points)}], one for each point", labels)
    if masks is not None:
        _check_shape(masks.ndim == 3 and len(masks) == 1, "mask_input", "[1, 4h, 4w], logits of an earlier call", masks)
    has_many_boxes = boxes is not None and boxes.ndim == 2 and len(boxes) != 1
    if has_many_boxes and (points is not None or masks is not None):
        raise InputError("Points and masks do not go with several boxes; give one box with points or a mask.")
    if points is not None and not len(points):
        points = labels = None
    return (
        Prompts(
            boxes=None if boxes is None else boxes.reshape(-1, 4),
            points=None if points is None else points[None],
            labels=None if labels is None else parse_labels(labels)[None],
            masks=None if masks is None else masks.astype(np.float32)[None],
        ),
        has_many_boxes,
    )


def parse_prompt_tensors(point_coords: Any, point_labels: Any, boxes: Any, mask_input: Any) -> Prompts:
    """Parse the arguments of segment-anything's `predict_torch`; coordinates stay in the pixels of the arguments.

    Args:
        point_coords: [P, N, 2] or None.
        point_labels: [P, N] or None.
        boxes: [P, 4] or None.
        mask_input: [P, 1, 4h, 4w], or [1, 1, 4h, 4w] for all prompts; or None.

    Raises:
        InputError: an argument does not hold numbers, or has another shape.
    """
    _check_pair(point_coords, point_labels)
    points, labels = _to_numbers(point_coords, "point_coords"), _to_numbers(point_labels, "point_labels")
    corners, masks = _to_numbers(boxes, "boxes"), _to_numbers(mask_input, "mask_input")
    if points is not None and labels is not None:
        _check_shape(points.ndim == 3 and points.shape[2] == 2, "point_coords", "[P, N, 2]", points)
        _check_shape(labels.shape == points.shape[:2], "point_labels", f"{list(points.shape[:2])}", labels)
    if corners is not None:
        corners = corners.reshape(-1, 4) if corners.shape[1:] == (1, 4) else corners
        _check_shape(corners.ndim == 2 and corners.shape[1] == 4, "boxes", "[P, 4]", corners)
    if masks is not None:
        _check_shape(masks.ndim == 4 and masks.shape[1] == 1, "mask_input", "[P, 1, 4h, 4w]", masks)
    count = len(Prompts(corners, points))
    if masks is not None and len(masks) == 1 and count > 1:
        masks = np.repeat(masks, count, axis=0)
    return Prompts(
        corners,
        points,
        None if labels is None else parse_labels(labels),
        None if masks is None else masks.astype(np.float32),
    )


def parse_labels(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Convert labels to whole numbers.

    Raises:
        InputError: a label is not 1, 0 or −1.
    """
    wrong = ~np.isin(labels, LABELS)
    if wrong.any():
        raise InputError(
            f"A point has the label {labels[wrong][0]:g}; expected 1 for the object, 0 for the background, "
            "or -1 to fill up a row."
        )
    return labels.astype(np.int64)


def check_prompts(prompts: Prompts, *, mask_side: int | None) -> None:
    """Check that the prompts can be segmented.

    Args:
        prompts: prompts of one image.
        mask_side: side of the low-resolution logits of mask prompts; None without an image.

    Raises:
        InputError: no image is set, there are no prompts, or their numbers cannot be used.
    """
    if mask_side is None:
        raise InputError("No image has been set; call set_image first.")
    if not len(prompts):
        raise InputError("There are no prompts; give at least one box or point.")
    _check_values(prompts)
    if (prompts.points is None) != (prompts.labels is None):
        raise InputError("Points and labels go together; give both or neither.")
    if prompts.labels is not None:
        parse_labels(prompts.labels)
    if prompts.masks is not None:
        _check_shape(
            prompts.masks.shape[1:] == (1, mask_side, mask_side),
            "mask_input",
            f"[1, {mask_side}, {mask_side}], logits of an earlier call",
            prompts.masks[0],
        )


def _check_values(prompts: Prompts) -> None:
    """Check that all numbers are finite, and all parts have one entry for each prompt."""
    parts = {"box": prompts.boxes, "point": prompts.points, "label": prompts.labels, "mask": prompts.masks}
    for name, values in parts.items():
        if values is None:
            continue
        if len(values) != len(prompts):
            raise InputError(
                f"There are {len(prompts)} prompts, but {name} values for {len(values)}; give as many of each."
            )
        if not np.isfinite(values).all():
            raise InputError(f"A {name} holds NaN or infinity.")


def _check_pair(point_coords: Any, point_labels: Any) -> None:
    if (point_coords is None) != (point_labels is None):
        raise InputError("point_coords and point_labels go together; give both or neither.")


def _to_numbers(value: Any, name: str) -> NDArray[np.float64] | None:
    """Convert an array, a list or a tensor to float64.

    Raises:
        InputError: it does not hold numbers.
    """
    if value is None:
        return None
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu().double().numpy()
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is not an array of numbers: {shortened(error)}.") from error


def _check_shape(fits: bool, name: str, expected: str, values: NDArray[Any]) -> None:
    if not fits:
        raise InputError(f"{name} has shape {values.shape}; expected {expected}.")
