"""Images from files: upright, RGB, or a clear error."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from mixqsam.errors import ImageError
from mixqsam.progress import Progress

# Pillow's limit against decompression bombs.
MOST_PIXELS = 89_478_485
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def open_image(path: Path) -> Image.Image:
    """Decode an image, turn it upright (EXIF orientation) and make it RGB.

    Raises:
        ImageError: missing, truncated, not an image, or larger than Pillow's limit against decompression bombs.
    """
    return decode_image(path, name=str(path))


def decode_image(source: Path | BinaryIO, *, name: str) -> Image.Image:
    """As `open_image`, from a file or a stream; `name` names it in errors."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which says nothing about the pixels.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                upright = ImageOps.exif_transpose(image)
                return _eight_bit(upright).convert("RGB")
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image that can be read.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is larger than {MOST_PIXELS} pixels: {error}") from error
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is.") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageError(f"{name} is damaged: {error}.") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit greys scaled to 8 bits; Pillow's own conversion would cut them off at 255."""
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value / 256).convert("L")
    return image


def list_images(folder: Path) -> list[Path]:
    """All image files below a folder, in the order of their names.

    Raises:
        ImageError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder; give a folder of images ({', '.join(sorted(SUFFIXES))}).")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ImageError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}).")
    return paths


def readable_images(paths: list[Path], *, count: int | None, progress: Progress) -> list[tuple[Path, int, int]]:
    """The first `count` images that decode, with width and height; broken ones are named, skipped, counted.

    Raises:
        ImageError: none can be read.
    """
    good: list[tuple[Path, int, int]] = []
    broken: list[str] = []
    for path in paths:
        if count is not None and len(good) == count:
            break
        try:
            image = open_image(path)
        except ImageError as error:
            broken.append(str(error))
            continue
        good.append((path, image.width, image.height))
    note_skipped(broken, total=len(good) + len(broken), progress=progress)
    return good


def note_skipped(broken: Sequence[str], *, total: int, progress: Progress) -> None:
    """Tell the user which of `total` images were skipped, and why.

    Raises:
        ImageError: all of them.
    """
    if not broken:
        return
    progress.note(f"Skipped {len(broken)} of {total} images: " + " ".join(broken))
    if len(broken) == total:
        raise ImageError("None of the images can be read: " + " ".join(broken[:5]))
