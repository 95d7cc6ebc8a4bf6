"""Segmentations of COCO annotation files, looked at before the evaluator's compiled code draws them."""

from collections.abc import Mapping
from typing import Any

# A polygon may leave its image by this many of its sides; what is drawn costs memory by its length.
_BEYOND = 10


def check_segmentations(values: Mapping[str, Any]) -> None:
    """Refuse segmentations that are not of their image's size, or reach far beyond it.

    Args:
        values: an annotation file.

    Raises:
        ValueError: the message names the annotation.
        KeyError, TypeError, AttributeError: it is no annotation file.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in values["images"]}
    for annotation in values["annotations"]:
        shape = annotation.get("segmentation")
        size = sizes.get(annotation["image_id"])
        if size is None or shape is None:
            continue
        fits = _code_fits(shape, size) if isinstance(shape, Mapping) else _polygons_fit(shape, max(size))
        if not fits:
            number, pixels = annotation.get("id"), f"{size[1]}×{size[0]} pixels"
            raise ValueError(f"the segmentation of annotation {number} does not fit its image of {pixels}")


def _code_fits(code: Mapping[str, Any], size: tuple[int, int]) -> bool:
    """Whether a run-length code is of the image's size; the evaluator refuses runs that do not fill it."""
    counts = code["counts"]
    if tuple(code["size"]) != size:
        return False
    if isinstance(counts, list):
        return all(isinstance(one, int) and one >= 0 for one in counts) and sum(counts) == size[0] * size[1]
    return isinstance(counts, str)


def _polygons_fit(polygons: Any, side: int) -> bool:
    """Whether all corners are numbers, and near the image."""
    if not isinstance(polygons, list):
        return False
    return all(
        isinstance(polygon, list)
        and all(isinstance(one, int | float) and abs(one) <= _BEYOND * side for one in polygon)
        for polygon in polygons
    )
