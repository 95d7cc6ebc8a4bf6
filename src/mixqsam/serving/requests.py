"""Read what the page sends, and check it."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from mixqsam.errors import AnnotationError, InputError
from mixqsam.prompts import Prompts, clip_boxes, point_prompt
from mixqsam.sam.automatic_options import Automatic

# The page sends this header; browsers do not let other sites send it.
_PAGE_HEADER = "x-mixqsam"
# How sure a mask has to be where everything is segmented: its predicted IoU and its stability. The first are Meta's.
SURENESS: dict[str, tuple[float, float]] = {"sure": (0.88, 0.95), "likely": (0.6, 0.8), "unsure": (0.2, 0.4)}


@dataclass(frozen=True)
class WantedBudget:
    """A budget that a visitor chose.

    Attributes:
        size: bytes.
        bitops: BitOps per image.
        tied: the same bits for a unit's weights and activations.
    """

    size: float
    bitops: float
    tied: bool


async def read_json(request: Request, *, maximum: int, seconds: float) -> dict[str, Any]:
    """Read a JSON object; see `read_body`.

    Raises:
        InputError: the body is not a JSON object.
    """
    content = await read_body(request, maximum=maximum, seconds=seconds)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError("The request is not JSON.") from error
    if not isinstance(value, dict):
        raise InputError("The request is not a JSON object.")
    return value


async def read_body(request: Request, *, maximum: int, seconds: float) -> bytes:
    """Read a request's body: it must come from our page, be small enough, and arrive in time.

    Args:
        request: the request.
        maximum: maximum number of bytes.
        seconds: maximum time to arrive.

    Raises:
        HTTPException: the body is refused; its detail says why.
    """
    if _PAGE_HEADER not in request.headers:
        raise HTTPException(403, f"The header {_PAGE_HEADER}: 1 is missing; it protects the page from other web sites.")
    too_large = HTTPException(413, f"The request is too large; at most {maximum / 1e6:g} MB can be sent.")
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > maximum:
        raise too_large
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                parts.append(part)
                if sum(map(len, parts)) > maximum:
                    raise too_large
    except TimeoutError as error:
        raise HTTPException(408, "The request took too long to arrive.", {"connection": "close"}) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "The client disconnected.") from error
    return b"".join(parts)


def parse_name(value: Mapping[str, Any], key: str) -> str:
    """Parse the name of a model or an image.

    Raises:
        InputError: `key` holds no name.
    """
    name = value.get(key)
    if not isinstance(name, str):
        raise InputError(f"“{key}” is missing or is not a name; choose one of those that /api/state lists.")
    return name


def parse_names(values: Any, *, maximum: int) -> list[str]:
    """Parse names of models.

    Raises:
        InputError: it is not a list of one to `maximum` names.
    """
    if (
        not isinstance(values, list)
        or not 0 < len(values) <= maximum
        or not all(isinstance(name, str) for name in values)
    ):
        raise InputError(f"“models” is not a list of one to {maximum} names; choose of those that /api/state lists.")
    return list(values)


def parse_choice(value: Any) -> int:
    """Which mask a request asks for: 0 for the model's one mask, 1 to 3 for one of three.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(value, bool) or value not in (0, 1, 2, 3):
        raise InputError("The mask is 0 for the model's one mask, or 1, 2 or 3 for one of its three.")
    return int(value)


def parse_prompt(value: Mapping[str, Any], *, width: int, height: int, maximum: int) -> Prompts:
    """Parse a visitor's box and points as one prompt.

    Args:
        value: `box` ([4] or none) and `points` ([[x, y, label], …]).
        width: width of the image.
        height: height of the image.
        maximum: maximum number of points.

    Raises:
        AnnotationError: there is neither box nor point, there are too many, or they are not numbers inside the image.
    """
    box, points = _parse_numbers(value.get("box"), (1, 4)), _parse_numbers(value.get("points"), (-1, 3))
    if box is None and points is None:
        raise AnnotationError("Draw a box or click a point.")
    if points is not None and len(points) > maximum:
        raise AnnotationError(f"There are {len(points)} points; at most {maximum} are allowed.")
    clicked = Prompts() if points is None else point_prompt(points, width=width, height=height, source="The points")
    boxes = None if box is None else clip_boxes(box, width=width, height=height, source="The box")
    return replace(clicked, boxes=boxes)


def _parse_numbers(value: Any, shape: tuple[int, int]) -> NDArray[np.float64] | None:
    if not value:
        return None
    try:
        return np.asarray(value, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError("A box is x1, y1, x2, y2, and a point x, y, label.") from error


def parse_automatic(value: Mapping[str, Any], *, maximum: int) -> Automatic:
    """Parse how everything is segmented: `side`, points per side of the grid, and `sureness` of the masks.

    Raises:
        InputError: the grid is larger than `maximum`, or the sureness is unknown.
    """
    side, sureness = value.get("side"), value.get("sureness")
    if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= maximum:
        raise InputError(f"The grid has 1 to {maximum} points per side.")
    if not isinstance(sureness, str) or sureness not in SURENESS:
        raise InputError(f"The sureness of masks is one of {', '.join(SURENESS)}.")
    predicted_iou, stability = SURENESS[sureness]
    return Automatic(side=side, predicted_iou=predicted_iou, stability=stability)


def parse_budget(value: Mapping[str, Any]) -> WantedBudget:
    """Parse a budget: `size`, `bitops` and `tied`.

    Raises:
        InputError: they are not numbers.
    """
    try:
        size, bitops = float(value["size"]), float(value["bitops"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError("Give the budget as a size in bytes and a number of BitOps.") from error
    return WantedBudget(size, bitops, bool(value.get("tied")))
