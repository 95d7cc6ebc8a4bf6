"""Segmentations of COCO annotation files, looked at before the evaluator's compiled code draws them."""

from collections.abc import Mapping
from typing import Any

from faster_coco_eval.core import mask as rle

from mixqsam.data.records import whole_number

# A polygon may leave its image by this many of its sides; what is drawn costs memory by its length.
_BEYOND = 10
# Two corners enclose nothing.
_LEAST_NUMBERS = 6


def checked_segmentation(shape: Any, *, height: int, width: int) -> Any:
    """A segmentation as the evaluator takes it: polygons, or a run-length code of its image's size.

    Args:
        shape: as an annotation file holds it.
        height: of the image, in pixels.
        width: likewise.

    Returns:
        None where there is no mask: nothing, no polygon with three corners, or a code without a pixel.

    Raises:
        ValueError: it is neither, or does not fit the image.
    """
    if shape is None or shape in ([], {}, ""):
        return None
    checked = _code(shape, (height, width)) if isinstance(shape, Mapping) else _polygons(shape, max(height, width))
    return checked or None


def encoded(segmentation: Any, *, height: int, width: int) -> Mapping[str, Any]:
    """The run-length code of a checked segmentation.

    Raises:
        TypeError, ValueError, RuntimeError, KeyError, IndexError: it cannot be drawn.
    """
    if isinstance(segmentation, list):
        drawn = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        drawn = rle.frPyObjects(segmentation, height, width)
    else:
        drawn = segmentation
    return dict(drawn)


def _code(code: Mapping[str, Any], size: tuple[int, int]) -> Mapping[str, Any] | None:
    counts = code.get("counts")
    sides = code.get("size")
    if not isinstance(sides, list | tuple) or [whole_number(side) for side in sides] != list(size):
        raise ValueError("is a run-length code of another size")
    canonical = {"size": list(size), "counts": counts}
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != size[0] * size[1]:
            raise ValueError("is a run-length code that does not fill it")
        return canonical if any(counts[1::2]) else None
    if not isinstance(counts, str):
        raise ValueError("is a run-length code without counts")
    try:
        return canonical if int(rle.area(canonical)) else None
    except (TypeError, RuntimeError, KeyError, IndexError) as error:
        raise ValueError("is a damaged run-length code") from error


def _polygons(polygons: Any, side: int) -> list[list[float]]:
    """The polygons with at least three corners."""
    if not isinstance(polygons, list):
        raise ValueError("is neither polygons nor a run-length code")
    for polygon in polygons:
        if not isinstance(polygon, list) or not all(isinstance(value, int | float) for value in polygon):
            raise ValueError("holds a polygon that is not a list of numbers")
        if any(abs(value) > _BEYOND * side for value in polygon):
            raise ValueError("reaches far beyond it")
    return [polygon for polygon in polygons if len(polygon) >= _LEAST_NUMBERS]
