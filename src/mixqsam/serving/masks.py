"""Masks as the page receives them."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mixqsam.reporting.overlay import png_bytes
from mixqsam.sam.automatic import Masks, encode_runs
from mixqsam.serving.workspace import Segmentation


def describe_segmentations(models: Sequence[str], segmentations: Sequence[Segmentation]) -> dict[str, Any]:
    """Describe what one or two models found for a prompt, and their difference."""
    results = [
        {
            "model": model,
            "mask": "data:image/png;base64," + base64.b64encode(png_bytes(Image.fromarray(one.mask))).decode(),
            "pixels": int(one.mask.sum()),
            "predicted_iou": one.predicted_iou,
            "encode_seconds": one.encode_seconds,
            "encoded_now": one.encoded_now,
            "prompt_seconds": one.prompt_seconds,
        }
        for model, one in zip(models, segmentations, strict=True)
    ]
    return {"results": results, "difference": _compare(segmentations[0].mask, segmentations[-1].mask)}


def _compare(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare two masks: their IoU, and the pixels in only one of them."""
    intersection, union = int((first & second).sum()), int((first | second).sum())
    return {
        "iou": intersection / union if union else 1.0,
        "only_first": int((first & ~second).sum()),
        "only_second": int((second & ~first).sum()),
    }


def describe_everything(masks: Masks, *, maximum: int) -> dict[str, Any]:
    """Describe the surest masks of an image as runs of COCO, each with the prompt that gives it again.

    Args:
        masks: all masks, the surest first.
        maximum: how many are described.
    """
    found = [
        {
            "segmentation": encode_runs(masks.masks[i]),
            "area": int(masks.masks[i].sum()),
            "predicted_iou": float(masks.scores[i]),
            "point": masks.points[i].tolist(),
            "choice": int(masks.choices[i]),
        }
        for i in range(min(len(masks.masks), maximum))
    ]
    return {"masks": found, "found": len(masks.masks)}
