"""Images from files: upright, RGB, or a clear error."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from mixqsam.errors import ImageError, shortened
from mixqsam.files import digest_file
from mixqsam.pixels import RESCALED_MODES, named_faults, stored_form, to_rgb
from mixqsam.progress import Progress

# Pillow's limit against decompression bombs.
MOST_PIXELS = 89_478_485
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# Version of how values of more than 8 bits are scaled.
_DECODER = 2
# EXIF's tag, and the values that exchange width and height.
_ORIENTATION, _TURNED = 0x0112, {5, 6, 7, 8}
# Of many skipped images, so many reasons are told.
_REASONS = 5


def open_image(path: Path) -> Image.Image:
    """Decode an image, turn it upright (EXIF orientation) and make it RGB.

    Raises:
        ImageError: missing, truncated, not an image, or larger than Pillow's limit against decompression bombs.
    """
    return decode_image(path, name=str(path))


def decode_image(source: Path | BinaryIO, *, name: str) -> Image.Image:
    """As `open_image`, from a file or a stream; `name` names it in errors."""
    with _readable(source, name) as image:
        stored = stored_form(image)
        return to_rgb(ImageOps.exif_transpose(image), name=name, stored=stored)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of the upright image; the pixels are not decoded.

    Raises:
        ImageError: missing, not an image, or larger than Pillow's limit against decompression bombs.
    """
    with _readable(path, str(path)) as image:
        turned = image.getexif().get(_ORIENTATION) in _TURNED
        return (image.height, image.width) if turned else (image.width, image.height)


def image_digest(path: Path) -> str:
    """A hash of an image's content, and of how it is decoded where that has changed since results were first kept.

    Raises:
        OSError: it cannot be read.
    """
    content = digest_file(path)
    try:
        with _readable(path, str(path)) as image:
            plain = image.mode not in RESCALED_MODES
    except ImageError:
        return content
    return content if plain else f"{content} {_DECODER}"


@contextmanager
def _readable(source: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """An open image, not decoded yet; faults name it."""
    try:
        with named_faults(name), ExitStack() as stack:
            stream = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield stack.enter_context(Image.open(stream))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is larger than {MOST_PIXELS} pixels: {shortened(error)}") from error
    except ImageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise ImageError(f"{name} does not exist.") from error
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise ImageError(f"{name} is not an image that can be read.") from error
        raise


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


def short_names(paths: Sequence[Path]) -> list[str]:
    """Paths without the folders that all of them share."""
    if not paths:
        return []
    shared = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(shared).as_posix() for path in paths]


def measured_images(paths: Sequence[Path], *, count: int | None, progress: Progress) -> list[tuple[Path, int, int]]:
    """The first `count` images with their width and height; only headers are read.

    What is not an image is named, skipped, counted; pixels that cannot be decoded show later.

    Raises:
        ImageError: none can be read.
    """
    return _good(paths, image_size, count=count, progress=progress)


def decoded_images(paths: Sequence[Path], *, count: int, progress: Progress) -> list[tuple[Path, int, int]]:
    """The first `count` images that decode, with width and height; others are named, skipped, counted.

    Raises:
        ImageError: none can be read.
    """
    return _good(paths, lambda path: open_image(path).size, count=count, progress=progress)


def _good(
    paths: Sequence[Path], measure: Callable[[Path], tuple[int, int]], *, count: int | None, progress: Progress
) -> list[tuple[Path, int, int]]:
    good: list[tuple[Path, int, int]] = []
    broken: list[str] = []
    for path in paths:
        if count is not None and len(good) == count:
            break
        try:
            good.append((path, *measure(path)))
        except ImageError as error:
            broken.append(str(error))
    note_skipped(broken, total=len(good) + len(broken), progress=progress)
    return good


def note_skipped(reasons: Sequence[str], *, total: int, progress: Progress) -> None:
    """Say how many images were skipped, and why the first ones were.

    Raises:
        ImageError: all were.
    """
    if not reasons:
        return
    few = " ".join(shortened(reason) for reason in reasons[:_REASONS]) + (" …" if len(reasons) > _REASONS else "")
    if len(reasons) == total:
        raise ImageError(f"None of the images can be read: {few}")
    progress.note(f"Skipped {len(reasons)} of {total} images: {few}")
