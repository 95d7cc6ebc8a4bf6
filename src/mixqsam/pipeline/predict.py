"""Segment one image with boxes or points, and write the masks."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mixqsam.data.images import open_image
from mixqsam.errors import AnnotationError
from mixqsam.files import number_paths, write_together
from mixqsam.pipeline.stages import make_predictor
from mixqsam.prediction import Prediction
from mixqsam.prompts import Prompts, clip_boxes
from mixqsam.reporting.overlay import check_picture_paths, draw_overlay, mask_image, picture_bytes, png_bytes


def run_prediction(
    image: Path,
    prompts_of: Callable[[int, int], Prompts],
    *,
    model: str | Path,
    output: Path | None = None,
    overlay: Path | None = None,
    backend: str | None = None,
    device: str = "cpu",
) -> tuple[Prediction, dict[Path, str]]:
    """Segment an image.

    Args:
        image: image file.
        prompts_of: width and height → prompts.
        model: float model, quantized directory, or exported directory.
        output: file of the mask; with several masks `name-1.png`, `name-2.png`, … None to write none.
        overlay: file of the picture of the mask on the image; None to write none.
        backend: `torch`, `onnx` or `openvino`; None for the backend of the model's files.
        device: device of `torch`.

    Returns:
        The prediction, and each written file with what it is.

    Raises:
        InputError: the image, the prompts or the model cannot be used.
        OutputError: a file cannot be written, or its name has another ending than its format's; then none is.
    """
    check_picture_paths(mask=output, overlay=overlay)
    picture = open_image(image)
    prompts = prompts_of(picture.width, picture.height)
    predictor = make_predictor(model, backend=backend, device=device)
    predictor.set_image(picture)
    prediction = predictor.segment(prompts)
    masks = prediction.masks[:, 0]
    made: dict[Path, str] = {}
    contents: dict[Path, bytes] = {}
    if output is not None:
        for number, (path, mask) in enumerate(zip(number_paths(output, len(masks)), masks, strict=True), start=1):
            contents[path] = png_bytes(mask_image(mask))
            made[path] = "mask" if len(masks) == 1 else f"mask {number}"
    if overlay is not None:
        contents[overlay] = picture_bytes(draw_overlay(picture, masks, prompts), overlay)
        made[overlay] = "the mask on the image" if len(masks) == 1 else "the masks on the image"
    write_together(contents)
    return prediction, made


def make_prompts(
    boxes: Sequence[Sequence[float]], points: Sequence[Sequence[float]], *, width: int, height: int
) -> Prompts:
    """Make prompts of boxes (x1, y1, x2, y2), or one prompt of all points (x, y and a label, 1 by default).

    Raises:
        AnnotationError: neither or both are given, or they do not fit the image.
    """
    if bool(len(boxes)) == bool(len(points)):
        raise AnnotationError("Give boxes (one or more) or points (one or more), and not both.")
    if len(boxes):
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        return Prompts(boxes=clip_boxes(corners, width=width, height=height, source="--box"))
    places = np.array([point[:2] for point in points], dtype=np.float64)
    if (places < 0).any() or (places >= (width, height)).any():
        raise AnnotationError(f"--point: a point lies outside the image of {width}×{height} pixels.")
    labels = np.array([int(point[2]) if len(point) == 3 else 1 for point in points], dtype=np.int64)
    if not set(labels.tolist()) <= {0, 1}:
        raise AnnotationError("--point: the label is 1 (object) or 0 (background).")
    return Prompts(points=places[None], labels=labels[None])
