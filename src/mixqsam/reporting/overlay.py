"""Draw masks on photographs."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mixqsam.errors import OutputError
from mixqsam.prompts import Prompts

# Okabe–Ito colours, which colour-blind people can distinguish.
_COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233))
# Colours of lost and of gained pixels.
LOST, GAINED = (230, 159, 0), (204, 60, 140)
_CAPTION_HEIGHT = 28
# Endings of the names of written pictures.
_PNG, _JPEG = ".png", (".jpg", ".jpeg")


def draw_overlay(image: Image.Image, masks: NDArray[np.bool_], prompts: Prompts) -> Image.Image:
    """Draw masks [P, height, width] in colours, their outlines, and the prompts."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32).copy()
    for index, mask in enumerate(masks):
        colour = np.array(_COLOURS[index % len(_COLOURS)], dtype=np.float32)
        pixels[mask] = 0.45 * pixels[mask] + 0.55 * colour
        pixels[mask & ~_erode(mask)] = colour
    picture = Image.fromarray(pixels.astype(np.uint8))
    _draw_prompts(picture, prompts)
    return picture


def draw_difference(image: Image.Image, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Image.Image:
    """Draw two masks [height, width] on a grey photograph: common pixels grey-blue, lost orange, gained pink."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    pixels = np.repeat(0.55 * grey[..., None] + 90, 3, axis=-1)
    for where, colour in ((first & second, (86, 130, 180)), (first & ~second, LOST), (second & ~first, GAINED)):
        pixels[where] = 0.3 * pixels[where] + 0.7 * np.array(colour, dtype=np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _erode(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Remove the mask's border of two pixels."""
    inner = mask.copy()
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner


def _draw_prompts(picture: Image.Image, prompts: Prompts) -> None:
    pen = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 300))
    if prompts.boxes is not None:
        for index, box in enumerate(prompts.boxes):
            pen.rectangle([float(v) for v in box], outline=_COLOURS[index % len(_COLOURS)], width=width)
    if prompts.points is not None and prompts.labels is not None:
        radius = 2 * width
        for (x, y), label in zip(prompts.points.reshape(-1, 2), prompts.labels.reshape(-1), strict=True):
            corners = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(corners, fill=(0, 160, 0) if label else (200, 0, 0), outline="white", width=max(1, width // 2))


def side_by_side(pictures: Mapping[str, Image.Image], *, height: int = 360) -> Image.Image:
    """Put pictures in a row, each under its caption."""
    scaled = {
        caption: p.resize((max(1, round(p.width * height / p.height)), height)) for caption, p in pictures.items()
    }
    total = sum(p.width for p in scaled.values()) + 8 * (len(scaled) - 1)
    canvas = Image.new("RGB", (total, height + _CAPTION_HEIGHT), "white")
    pen = ImageDraw.Draw(canvas)
    left = 0
    for caption, picture in scaled.items():
        pen.text((left + 4, 5), caption, fill="black", font=ImageFont.load_default(16))
        canvas.paste(picture, (left, _CAPTION_HEIGHT))
        left += picture.width + 8
    return canvas


def stack(rows: list[Image.Image]) -> Image.Image:
    """Put pictures below each other."""
    canvas = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows) + 8 * (len(rows) - 1)), "white")
    top = 0
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height + 8
    return canvas


def png_bytes(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def check_picture_paths(*, mask: Path | None = None, overlay: Path | None = None) -> None:
    """Check that the names of pictures to write end as the files that are written: before any work.

    Args:
        mask: file of a mask, always PNG; None for none.
        overlay: file of a picture, PNG or JPEG; None for none.

    Raises:
        OutputError: a name has another ending.
    """
    if mask is not None and mask.suffix.lower() != _PNG:
        raise OutputError(f"{mask}: a mask is written as PNG; name a file that ends in {_PNG}.")
    if overlay is not None and overlay.suffix.lower() not in {_PNG, *_JPEG}:
        endings = f"{_PNG}, {' or '.join(_JPEG)}"
        raise OutputError(f"{overlay}: a picture is written as PNG or JPEG; name a file that ends in {endings}.")


def picture_bytes(image: Image.Image, path: Path) -> bytes:
    """Encode an RGB image for a file: as JPEG where its name says so, as PNG otherwise."""
    return jpeg_bytes(image) if path.suffix.lower() in _JPEG else png_bytes(image)


def jpeg_bytes(image: Image.Image) -> bytes:
    """Encode an image as JPEG."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, format="JPEG", quality=85, optimize=True)
    return stream.getvalue()


def mask_image(mask: NDArray[np.bool_]) -> Image.Image:
    """Draw a mask [height, width] in black and white (0 and 255)."""
    return Image.fromarray(mask.astype(np.uint8) * 255)
