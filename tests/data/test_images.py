"""One decoder: what a file, an upload or an array holds becomes the same 8-bit RGB, or is refused by name."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from mixqsam.data.images import decode_image, image_digest, image_size, open_image, shorten_paths
from mixqsam.errors import ImageError
from mixqsam.pixels import from_input

Attempts = list[Callable[[], Image.Image]]
RAMP = np.linspace(0, 1, 24 * 31).reshape(24, 31)
EIGHT = (RAMP * 255).round().astype(np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def sixteen_bit_png(values: np.ndarray, *, significant: int | None = None) -> bytes:
    """A PNG of 16-bit values [height, width] or [height, width, 3], with an sBIT chunk or without."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 2, 0, 0, 0)
    bits = chunk(b"sBIT", bytes([significant] * channels)) if significant else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + bits + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def grey(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    assert image.mode == "RGB"
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(int)


def test_floats_of_0_to_1_are_scaled(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.tif", Image.fromarray(RAMP.astype(np.float32)))
    assert np.array_equal(grey(open_image(path)), EIGHT)
    assert np.array_equal(grey(from_input(Image.open(path))), EIGHT)
    assert grey(open_image(saved(tmp_path / "y.tif", Image.new("F", (4, 3), 0.5)))).tolist() == [[128] * 4] * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RAMP * 255, "floats from 0 to 255; expected 0 to 1"),
        (RAMP - 0.5, "floats from -0.5 to 0.5"),
        (np.full((3, 4), np.nan), "NaN or infinity"),
        (np.full((3, 4), np.inf), "NaN or infinity"),
    ],
)
def test_other_floats_are_refused_by_name(tmp_path: Path, values: np.ndarray, message: str) -> None:
    path = saved(tmp_path / "x.tif", Image.fromarray(values.astype(np.float32)))
    with pytest.raises(ImageError, match=rf"x.tif holds {message}"):
        open_image(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_their_range(tmp_path: Path, suffix: str) -> None:
    deep = (RAMP * 65535).round().astype(np.uint16)
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(deep))
    assert np.array_equal(grey(open_image(path)), deep >> 8)
    assert np.array_equal(grey(from_input(deep)), deep >> 8)
    assert np.array_equal(grey(from_input(Image.open(path))), deep >> 8)
    assert np.array_equal(grey(decode_image(io.BytesIO(path.read_bytes()), name="The upload")), deep >> 8)
    colours = np.asarray(from_input(np.dstack([deep, deep // 2, deep // 3])))
    assert np.array_equal(colours, np.dstack([deep, deep // 2, deep // 3]) >> 8)


@pytest.mark.parametrize("bits", [9, 10, 12])
def test_fewer_bits_in_sixteen_are_refused_unless_the_file_says_so(tmp_path: Path, bits: int) -> None:
    values = (RAMP * (2**bits - 1)).round().astype(np.uint16)
    path = tmp_path / "x.png"
    path.write_bytes(sixteen_bit_png(values))
    attempts: Attempts = [
        lambda: open_image(path),
        lambda: from_input(values),
        lambda: from_input(Image.fromarray(values)),
    ]
    for attempt in attempts:
        with pytest.raises(ImageError, match=rf"16 bits a value, but none is above .*: it seems to hold {bits} bits"):
            attempt()
    path.write_bytes(sixteen_bit_png(values, significant=bits))
    assert np.array_equal(grey(open_image(path)), values >> (bits - 8))
    assert np.array_equal(grey(from_input(Image.open(path))), values >> (bits - 8))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 2**bits - 1
    tiff = saved(tmp_path / "x.tif", Image.fromarray(values), tiffinfo=tags)
    assert np.array_equal(grey(open_image(tiff)), values >> (bits - 8))
    # Values that were scaled up to 16 bits are not scaled again.
    path.write_bytes(sixteen_bit_png(values << (16 - bits), significant=bits))
    assert np.array_equal(grey(open_image(path)), values >> (bits - 8))


def test_a_file_may_say_that_a_dark_picture_is_dark(tmp_path: Path) -> None:
    dark = (RAMP * 3000).astype(np.uint16)
    path = tmp_path / "x.png"
    path.write_bytes(sixteen_bit_png(dark, significant=16))
    assert np.array_equal(grey(open_image(path)), dark >> 8)
    path.write_bytes(sixteen_bit_png(dark * 0))
    assert grey(open_image(path)).max() == 0


def test_colours_of_sixteen_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    deep = np.dstack([RAMP * 65535, RAMP * 30000, RAMP * 0]).astype(np.uint16)
    path.write_bytes(sixteen_bit_png(deep))
    assert np.array_equal(np.asarray(open_image(path)), deep >> 8)
    path.write_bytes(sixteen_bit_png(deep >> 4))
    attempts: Attempts = [lambda: open_image(path), lambda: from_input(Image.open(path))]
    for attempt in attempts:
        with pytest.raises(ImageError, match="none of them uses the upper 4 bits"):
            attempt()


@pytest.mark.parametrize("largest", [255, 1023, 4095, 65535])
def test_a_greymap_says_its_maximum(tmp_path: Path, largest: int) -> None:
    values = (RAMP * largest).round().astype(int)
    rows = "\n".join(" ".join(map(str, row)) for row in values)
    path = tmp_path / "x.pgm"
    path.write_text(f"P2\n31 24\n{largest}\n{rows}\n")
    assert np.abs(grey(open_image(path)) - EIGHT).max() <= 1


def test_whole_numbers_beyond_sixteen_bits_are_refused(tmp_path: Path) -> None:
    for values in (np.full((3, 4), 70_000), np.full((3, 4), -5)):
        path = saved(tmp_path / "x.tif", Image.fromarray(values.astype(np.int32)))
        with pytest.raises(ImageError, match=rf"x.tif holds whole numbers from {values[0, 0]}"):
            open_image(path)


def test_alpha_is_dropped_and_palettes_are_looked_up(tmp_path: Path) -> None:
    colours = np.dstack([EIGHT, 255 - EIGHT, EIGHT // 2])
    alpha = Image.fromarray(np.dstack([colours, EIGHT]))
    assert np.array_equal(np.asarray(open_image(saved(tmp_path / "a.png", alpha))), colours)
    assert np.array_equal(np.asarray(from_input(np.asarray(alpha))), colours)
    palette = Image.fromarray(colours).quantize(16)
    path = saved(tmp_path / "p.png", palette, transparency=0)
    assert np.array_equal(np.asarray(open_image(path)), np.asarray(palette.convert("RGB")))
    assert np.array_equal(grey(from_input(EIGHT)), EIGHT)
    assert np.array_equal(grey(from_input(EIGHT[..., None])), EIGHT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_the_upright_image(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "x.jpg", Image.fromarray(EIGHT), exif=exif)
    assert image_size(path) == open_image(path).size == ((31, 24) if orientation < 5 else (24, 31))
    deep = saved(tmp_path / "x.png", Image.fromarray((RAMP * 65535).astype(np.uint16)), exif=exif)
    assert image_size(deep) == open_image(deep).size


def test_sizes_are_read_without_pixels(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.jpg", Image.effect_noise((300, 200), 80))
    path.write_bytes(path.read_bytes()[:2000])
    assert image_size(path) == (300, 200)
    with pytest.raises(ImageError, match="x.jpg is damaged"):
        open_image(path)
    for name, content in (("no.png", None), ("text.png", b"text")):
        if content:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=f"{name} (does not exist|is not an image)"):
            image_size(tmp_path / name)


def test_only_pictures_that_are_decoded_otherwise_than_before_have_another_hash(tmp_path: Path) -> None:
    from mixqsam.files import digest_file

    plain = saved(tmp_path / "x.png", Image.fromarray(EIGHT))
    deep = saved(tmp_path / "y.png", Image.fromarray((RAMP * 65535).astype(np.uint16)))
    assert image_digest(plain) == digest_file(plain)
    assert image_digest(deep) != digest_file(deep)


def test_names_without_what_they_share() -> None:
    assert shorten_paths([Path("/a/b/c/x.png"), Path("/a/b/d/y.png")]) == ["c/x.png", "d/y.png"]
    assert shorten_paths([Path("/a/b/x.png")]) == ["x.png"]
    assert shorten_paths([]) == []
