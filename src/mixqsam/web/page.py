"""Write the page: our own files, the compressed model, the runtime, and what the page has to know of them."""

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mixqsam.deployed.names import DECODER, ENCODER
from mixqsam.errors import InputError, OutputError
from mixqsam.files import digest_file, write_bytes, write_json
from mixqsam.web.package import VERSION, read_members

STATIC = Path(__file__).with_name("static")
# Colours and letters are those of reports.
REPORT_STYLE = Path(__file__).parents[1] / "reporting/templates/page.css"
_STYLES = (REPORT_STYLE, STATIC / "controls.css", STATIC / "page.css")
_PAGE = ("index.html", "canvas.js", "page.js", "worker.js", "pixels.js")
# What the page reads first; every directory of this format has it.
SETTINGS = "mixqsam-web.json"
# Runtime → the script that the page imports, the script that loads the binary, and the binary.
RUNTIMES: Mapping[str, tuple[str, str, str]] = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": (
        "ort.webgpu.min.mjs",
        "ort-wasm-simd-threaded.asyncify.mjs",
        "ort-wasm-simd-threaded.asyncify.wasm",
    ),
}
# The longer side of pictures that the page works on, in pixels.
_LONGEST = 1600


@dataclass(frozen=True)
class Written:
    """What a visitor downloads, in bytes.

    Attributes:
        model: encoder and decoder.
        runtimes: by name; a visitor downloads one of them.
    """

    model: int
    runtimes: Mapping[str, int]


def write_page(folder: Path, *, settings: Mapping[str, Any], package: Path, examples: Sequence[Image.Image]) -> Written:
    """Add the page to a directory that holds encoder and decoder as ONNX files, which are compressed.

    Args:
        folder: the directory.
        settings: what the exporter says of images and prompts.
        package: the runtime's npm package, verified.
        examples: pictures to choose from.

    Raises:
        InputError: the package cannot be read, or images are scaled by a filter that the page does not have.
        OutputError: the directory cannot be written.
    """
    if settings["resample"] != Image.Resampling.BILINEAR:
        name = Image.Resampling(settings["resample"]).name
        raise InputError(f"The model's images are scaled by {name}; the web page has BILINEAR alone.")
    write_bytes(folder / "style.css", b"\n".join(path.read_bytes() for path in _STYLES))
    for name in _PAGE:
        write_bytes(folder / name, (STATIC / name).read_bytes())
    model = {name: _compressed(folder / f"{name}.onnx") for name in (ENCODER, DECODER)}
    members = read_members(package, [member for parts in RUNTIMES.values() for member in parts])
    runtimes = {name: _write_runtime(folder, name, members) for name in RUNTIMES}
    values = {
        "name": Path(settings["source"]).name,
        "image": {
            "side": settings["image_size"],
            "longest": settings["longest_side"],
            "factor": settings["rescale_factor"],
            "mean": settings["image_mean"],
            "std": settings["image_std"],
            "most": _LONGEST,
        },
        "padding": settings["padding"]["points"],
        "encoder": model[ENCODER],
        "decoder": model[DECODER],
        "runtime_version": VERSION,
        "runtimes": runtimes,
        "examples": _write_examples(folder, examples),
    }
    write_json(folder / SETTINGS, values)
    return Written(
        sum(one["bytes"] for one in model.values()),
        {name: sum(one["bytes"] for one in files.values()) for name, files in runtimes.items()},
    )


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    """A file as the page finds it: its address ends in its hash, so that caches do not keep an older one."""
    address = f"{path.relative_to(folder).as_posix()}?{digest_file(path)[:12]}"
    return {"file": address, "bytes": path.stat().st_size}


def _compress(content: bytes) -> bytes:
    """The same bytes for the same content; higher levels take three times as long and save a hundredth."""
    return gzip.compress(content, compresslevel=6, mtime=0)


def _compressed(path: Path) -> dict[str, Any]:
    """Replace a file by its compressed form, the same for the same content."""
    if path.with_name(f"{path.name}.data").exists():
        raise OutputError(f"{path.name} is larger than 1.9 GB, which no browser can load.")
    target = path.with_name(f"{path.name}.gz")
    write_bytes(target, _compress(path.read_bytes()))
    path.unlink()
    return _entry(path.parent, target)


def _write_runtime(folder: Path, name: str, members: Mapping[str, bytes]) -> dict[str, Any]:
    """Copy a runtime; its scripts end in .js, because some servers do not know .mjs, and its binary is compressed."""
    script, loader, binary = RUNTIMES[name]
    entries = {}
    for key, member in (("script", script), ("loader", loader), ("binary", binary)):
        is_binary, content = key == "binary", members[member]
        path = folder / "runtime" / (f"{member}.gz" if is_binary else member.replace(".mjs", ".js"))
        write_bytes(path, _compress(content) if is_binary else content)
        entries[key] = _entry(folder, path)
    return entries


def _write_examples(folder: Path, examples: Sequence[Image.Image]) -> Sequence[str]:
    """Pictures at the page's size, without what cameras write into files."""
    names = []
    for index, image in enumerate(examples, start=1):
        path = folder / "examples" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        small = image.copy()
        small.thumbnail((_LONGEST, _LONGEST))
        small.save(path, quality=90)
        names.append(path.relative_to(folder).as_posix())
    return names
