"""Segment everything in one image, and write its masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixqsam.data.images import open_image
from mixqsam.evaluation.coco import encode_masks
from mixqsam.files import json_bytes, write_together
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import make_predictor
from mixqsam.prompts import Prompts
from mixqsam.reporting.overlay import check_picture_paths, draw_overlay, picture_bytes
from mixqsam.sam.automatic import Masks, segment_everything
from mixqsam.sam.automatic_options import Automatic


@dataclass(frozen=True)
class AutomaticFiles:
    """Files to write; None for none.

    Attributes:
        records: JSON of all masks: see `describe_masks`.
        overlay: picture of the masks on the image.
    """

    records: Path | None = None
    overlay: Path | None = None


def run_automatic_prediction(
    image: Path,
    *,
    model: str | Path,
    options: Automatic,
    session: Session,
    backend: str | None = None,
    files: AutomaticFiles | None = None,
) -> Masks:
    """Segment everything in an image.

    Args:
        image: image file.
        model: float model, quantized directory, or exported directory.
        options: how masks are made and chosen.
        session: progress, device.
        backend: `torch`, `onnx` or `openvino`; None for the backend of the model's files.
        files: what is written.

    Raises:
        InputError: the image or the model cannot be used, or the image is too small for its crops.
        OutputError: a file cannot be written, or its name has another ending than its format's; then none is.
    """
    files = files or AutomaticFiles()
    check_picture_paths(overlay=files.overlay)
    picture = open_image(image)
    predictor = make_predictor(model, backend=backend, device=session.device)
    masks = segment_everything(predictor, picture, options, progress=session.progress)
    if not len(masks.scores):
        session.progress.note(describe_nothing(str(model), options))
    contents: dict[Path, bytes] = {}
    if files.records is not None:
        contents[files.records] = json_bytes(describe_masks(masks))
    if files.overlay is not None:
        # Small masks are drawn over large ones.
        order = np.argsort(-masks.masks.sum(axis=(1, 2)), kind="stable")
        drawn = draw_overlay(picture, masks.masks[order], Prompts())
        contents[files.overlay] = picture_bytes(drawn, files.overlay)
    write_together(contents)
    return masks


def describe_masks(masks: Masks) -> list[dict[str, Any]]:
    """The dictionaries of segment-anything's generator as JSON; masks are COCO's compressed run lengths."""
    codes = encode_masks(masks.masks)
    return [record | {"segmentation": code} for record, code in zip(masks.records(), codes, strict=True)]


def describe_nothing(model: str, options: Automatic) -> str:
    """Say that a model finds no mask, and what to do."""
    return (
        f"{model} finds no mask with a predicted IoU of at least {options.predicted_iou:g} and a "
        f"stability of at least {options.stability:g}. Small models are less sure of their masks: lower both "
        "(--predicted-iou and --stability, in Python those of mixqsam.Automatic)."
    )
