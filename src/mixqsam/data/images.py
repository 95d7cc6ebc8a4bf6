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
# Maximum number of reasons in a note about skipped images.
_MAX_REASONS = 5


def open_image(path: Path) -> Image.Image:
    """Decode an image, turn it upright (EXIF orientation) and make it RGB.

    Raises:
        ImageError: missing, truncated, not an image, or larger than Pillow's limit against decompression bombs.
    """
    return decode_image(path, name=str(path))


def decode_image(source: Path | BinaryIO, *, name: str) -> Image.Image:
    """Decode an image as `open_image` does, from a file or a stream; errors contain `name`."""
    with _readable(source, name) as image:
        stored = stored_form(image)
        return to_rgb(ImageOps.exif_transpose(image), name=name, stored=stored)


def image_size(path: Path) -> tuple[int, int]:
    """Read width and height of the upright image without decoding the pixels.

    Raises:
        ImageError: missing, not an image, or larger than Pillow's limit against decompression bombs.
    """
    with _readable(path, str(path)) as image:
        turned = image.getexif().get(_ORIENTATION) in _TURNED
        return (image.height, image.width) if turned else (image.width, image.height)


def image_digest(path: Path) -> str:
    """Hash an image's content and, for images whose decoding has changed since the first caches, the decoder's version.

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
    """Open an image without decoding it; errors contain `name`."""
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
        if isinstance(error.__cause__, IsADirectoryError):
            raise ImageError(f"{name} is a folder; give an image file.") from error
        raise


def list_images(folder: Path) -> list[Path]:
    """List all image files below a folder, in the order of their names.

    Raises:
        ImageError: the folder does not exist, or does not hold an image.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder; give a folder of images ({', '.join(sorted(SUFFIXES))}).")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ImageError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}).")
    return paths


def shorten_paths(paths: Sequence[Path]) -> list[str]:
    """Shorten paths by their common folders."""
    if not paths:
        return []
    shared = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(shared).as_posix() for path in paths]


def measured_images(paths: Sequence[Path], *, count: int | None, progress: Progress) -> list[tuple[Path, int, int]]:
    """Measure width and height of the first `count` images; only headers are read.

    Files that are not images are named, skipped and counted. Damaged pixels are not noticed here.

    Raises:
        ImageError: no image can be read.
    """
    return _measure_readable(paths, image_size, count=count, progress=progress)


def decoded_images(paths: Sequence[Path], *, count: int, progress: Progress) -> list[tuple[Path, int, int]]:
    """Measure width and height of the first `count` decodable images; others are named, skipped and counted.

    Raises:
        ImageError: no image can be read.
    """
    return _measure_readable(paths, lambda path: open_image(path).size, count=count, progress=progress)


def _measure_readable(
    paths: Sequence[Path], measure: Callable[[Path], tuple[int, int]], *, count: int | None, progress: Progress
) -> list[tuple[Path, int, int]]:
    readable: list[tuple[Path, int, int]] = []
    broken: list[str] = []
    for path in paths:
        if count is not None and len(readable) == count:
            break
        try:
            readable.append((path, *measure(path)))
        except ImageError as error:
            broken.append(str(error))
    note_skipped(broken, total=len(readable) + len(broken), progress=progress)
    return readable


def note_skipped(reasons: Sequence[str], *, total: int, progress: Progress) -> None:
    """Note the number of skipped images, and the first reasons.

    Raises:
        ImageError: all images were skipped.
    """
    if not reasons:
        return
    few = " ".join(shortened(reason) for reason in reasons[:_MAX_REASONS]) + (
        " …" if len(reasons) > _MAX_REASONS else ""
    )
    if len(reasons) == total:
        raise ImageError(f"None of the images can be read: {few}")
    progress.note(f"Skipped {len(reasons)} of {total} images: {few}")
