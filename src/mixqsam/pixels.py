"""From whatever holds a picture to 8-bit RGB: the one decoder of files, uploads, predictors and exported models.

The range of values comes from the type of the data. Where the type leaves it open, the picture is refused by name.
"""

import contextlib
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mixqsam.errors import ImageError, InputError, shortened

FORMATS = ("RGB", "BGR")
# Pillow's modes whose values are scaled to 8 bits.
RESCALED_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
# A 16-bit picture whose values all lie below this looks like one of 12 bits.
_TWELVE_BITS = 1 << 12
# Rounding of floats may leave 0 … 1 by this much.
_SLACK = 1e-4
_PNG_HEAD = 8
# TIFF tags: bits of a value, and the largest value.
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE, _SMAX_SAMPLE_VALUE = 258, 281, 341

Pixels = NDArray[np.uint8]


@contextlib.contextmanager
def named_faults(name: str) -> Iterator[None]:
    """Turn what Pillow says of a picture into an error that names it.

    Raises:
        ImageError: the picture is damaged, or needs too much memory.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which says nothing about the pixels.
            warnings.simplefilter("ignore", UserWarning)
            yield
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is.") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise ImageError(f"{name} is damaged: {shortened(error)}.") from error


@dataclass(frozen=True)
class Stored:
    """How a file holds its values; to be asked before they are decoded.

    Attributes:
        bits: that a value uses, where the file says so: PNG's sBIT, TIFF's tags, PGM's maximum.
        coarse: Pillow will keep only the upper byte of 16-bit colours.
    """

    bits: int | None = None
    coarse: bool = False


def stored_form(image: Image.Image) -> Stored:
    """How the file of an image holds its values; nothing is known of an image that is decoded already."""
    tiles = getattr(image, "tile", None) or ()
    coarse = image.mode in {"RGB", "RGBA", "LA"} and any(";16" in str(tile[3]) for tile in tiles)
    bits = _stored_bits(image) if image.mode in RESCALED_MODES else None
    return Stored(bits if bits and 8 <= bits <= 16 else None, coarse)


def _stored_bits(image: Image.Image) -> int | None:
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        largest = _first_number(tags.get(_MAX_SAMPLE_VALUE, tags.get(_SMAX_SAMPLE_VALUE)))
        bits = _first_number(tags.get(_BITS_PER_SAMPLE))
        return largest.bit_length() or (bits if bits < 16 else None)
    if image.format == "PPM":
        # Pillow scales by the maximum that the file names.
        return 16
    stream = getattr(image, "fp", None)
    return _significant_bits(stream) if image.format == "PNG" and stream is not None else None


def _first_number(value: Any) -> int:
    value = value[0] if isinstance(value, tuple) and value else value
    return int(value) if isinstance(value, int | float) and 0 < value < 1 << 32 else 0


def _significant_bits(stream: BinaryIO) -> int | None:
    """The first value of a PNG's sBIT chunk, which comes before the pixels."""
    place = stream.tell()
    try:
        stream.seek(_PNG_HEAD)
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"sBIT":
                return next(iter(stream.read(1)), None)
            if kind in {b"IDAT", b"IEND"}:
                return None
            stream.seek(length + 4, 1)
    finally:
        stream.seek(place)
    return None


def to_rgb(image: Image.Image, *, name: str, stored: Stored) -> Image.Image:
    """A Pillow image as 8-bit RGB.

    Alpha is dropped, palettes are looked up, CMYK is converted. 16-bit values are scaled by their range, floats of
    0 … 1 by 255.

    Args:
        image: any mode.
        name: names the picture in errors.
        stored: see `stored_form`.

    Raises:
        ImageError: the pixels cannot be decoded, or their range is unknown.
    """
    with named_faults(name):
        if image.mode in RESCALED_MODES:
            return Image.fromarray(_scaled(np.asarray(image), name=name, bits=stored.bits)).convert("RGB")
        rgb = image.convert("RGB")
    if stored.coarse and int(np.asarray(rgb).max()) < _TWELVE_BITS >> 8:
        raise ImageError(
            f"{name} has 16 bits a value, and none of them uses the upper 4 bits: it seems to hold fewer bits. "
            "Scale it to 8 bits."
        )
    return rgb


def _scaled(values: NDArray[Any], *, name: str, bits: int | None = None) -> Pixels:
    """Values [...] of 16 bits or floats as 8 bits.

    Raises:
        ImageError: the range is unknown.
    """
    if not values.size:
        raise ImageError(f"{name} has no pixels.")
    if values.dtype.kind == "f":
        return _scaled_floats(values, name=name)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 1 << 16:
        raise ImageError(
            f"{name} holds whole numbers from {low} to {high}; expected 0 to 255, or 0 to 65535. Scale it to 8 bits."
        )
    if bits is None and 0 < high < _TWELVE_BITS:
        raise ImageError(
            f"{name} has 16 bits a value, but none is above {high}: it seems to hold {max(8, high.bit_length())} bits, "
            "and does not say so. Scale it to 8 bits, or name the bits in the file (PNG: sBIT, TIFF: MaxSampleValue)."
        )
    if bits is not None and high >> bits:
        # sBIT counts the upper bits where values were scaled up to 16.
        bits = 16
    shift = (16 if bits is None else bits) - 8
    return np.asarray(values >> shift if shift >= 0 else values << -shift).clip(0, 255).astype(np.uint8)


def _scaled_floats(values: NDArray[Any], *, name: str) -> Pixels:
    low, high = float(np.min(values)), float(np.max(values))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name} holds NaN or infinity.")
    if low < -_SLACK or high > 1 + _SLACK:
        raise ImageError(f"{name} holds floats from {low:.4g} to {high:.4g}; expected 0 to 1. Scale it to 8 bits.")
    return np.asarray((values.clip(0, 1) * 255).round()).astype(np.uint8)


def from_input(image: object, *, image_format: str = "RGB") -> Image.Image:
    """What `set_image` was given as an RGB image.

    Args:
        image: a Pillow image, or an array [height, width, 3] of uint8; grey [height, width], alpha [height, width, 4]
            and uint16 are taken too.
        image_format: order of the channels, `RGB` or `BGR`.

    Raises:
        InputError: it is none of these; the message says what to do.
        ImageError: the pixels cannot be decoded, or their range is unknown.
    """
    if image_format not in FORMATS:
        raise InputError(f"image_format is {shortened(repr(image_format))}; expected {' or '.join(FORMATS)}.")
    if isinstance(image, Image.Image):
        rgb = to_rgb(image, name="The image", stored=stored_form(image))
    else:
        rgb = Image.fromarray(_array_pixels(image))
    if not rgb.width or not rgb.height:
        raise ImageError("The image has no pixels.")
    return Image.fromarray(np.asarray(rgb)[..., ::-1].copy()) if image_format == "BGR" else rgb


def _array_pixels(image: object) -> Pixels:
    """[height, width, 3] uint8 of an array."""
    if not isinstance(image, np.ndarray):
        raise InputError(f"set_image takes pixels, not {_kind(image)}")
    if image.dtype.kind != "u" or image.dtype.itemsize > 2:
        floats = " Multiply floats of 0 to 1 by 255 first." if image.dtype.kind == "f" else ""
        raise InputError(
            f"The image is an array of {image.dtype}; expected uint8, values of 0 to 255: "
            f"image.astype(numpy.uint8).{floats}"
        )
    if image.ndim == 3 and image.shape[2] not in {1, 3, 4} and image.shape[0] in {1, 3, 4}:
        raise InputError(
            f"The image has shape {image.shape}, channels first; expected [height, width, 3]: image.transpose(1, 2, 0)."
        )
    if image.ndim not in {2, 3} or (image.ndim == 3 and image.shape[2] not in {1, 3, 4}) or not image.size:
        raise InputError(f"The image has shape {image.shape}; expected [height, width, 3].")
    pixels = _scaled(image, name="The image") if image.dtype.itemsize == 2 else image
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def _kind(value: object) -> str:
    """What a value is, and what to do with it."""
    if isinstance(value, str | bytes) or hasattr(value, "__fspath__"):
        return f"the path {shortened(repr(value))}; open it first: PIL.Image.open(path)."
    if hasattr(value, "detach"):
        return (
            "a tensor; give a NumPy array [height, width, 3] of uint8, or call set_torch_image with a tensor that "
            "went through transform.apply_image."
        )
    return f"a {type(value).__name__}; give a Pillow image or a NumPy array [height, width, 3] of uint8."
