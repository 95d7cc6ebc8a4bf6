"""Commands that show, use and export quantized models. Only their bodies import modules that load torch."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mixqsam.cli.command import command, line
from mixqsam.cli.console import out
from mixqsam.cli.options import (
    AnyModel,
    Cache,
    Device,
    Limit,
    OptionalData,
    OutputDirectory,
    Overwrite,
    Reference,
)
from mixqsam.cli.outcome import Outcome
from mixqsam.errors import AnnotationError, InputError
from mixqsam.options.fields import Option
from mixqsam.sam.automatic_options import Automatic

if TYPE_CHECKING:
    from mixqsam.prompts import Prompts

Backend = Annotated[str | None, Option("torch, onnx or openvino.", default_help="the backend of the model's files")]


@command()
def report(
    *,
    directories: Annotated[
        tuple[Path, ...],
        Option("Directories that quantize wrote; the report is that of the first.", is_argument=True),
    ],
    images: OptionalData = None,
    limit: Limit = None,
    reference: Reference = None,
    output: Annotated[
        Path | None,
        Option(
            "HTML file to write.",
            flags=("--output", "-o"),
            is_written=True,
            default_help="report.html in the first directory",
        ),
    ] = None,
    cache: Cache = None,
) -> Outcome:
    """Write the report of a quantized model: one HTML file that opens offline."""
    from mixqsam.cli.session import open_session
    from mixqsam.pipeline.report import run_report

    page = run_report(directories, images, session=open_session(cache), limit=limit, reference=reference, output=output)
    following = {
        line("serve", {"models": directories, "images": images and images.images}): "try these models in the browser"
    }
    return Outcome(data={"report": str(page)}, made={page: "report, for the browser"}, next=following)


@command()
def serve(
    *,
    models: Annotated[
        tuple[str, ...],
        Option(
            "Quantized or exported directories, float models; the float model of the first is served too.",
            is_argument=True,
            default_help="the demonstration's model, or sam-tiny",
        ),
    ] = (),
    images: Annotated[
        Path | None,
        Option(
            "Folder of images to choose from.", flags=("--images", "-i"), default_help="the demonstration's photographs"
        ),
    ] = None,
    host: Annotated[str, Option("Address to listen at; with 0.0.0.0 others can reach the page.")] = "127.0.0.1",
    port: Annotated[int, Option("Port; 0 for any free one.", minimum=0, maximum=65535)] = 7860,
) -> Outcome:
    """Open a page for the browser: two models side by side on your images, and a slider for the budget."""
    try:
        from mixqsam.serving.server import LOOPBACK, serve_models
    except ImportError as error:
        raise InputError(f"The page needs {error.name}: pip install 'mixqsam[serve]'.") from error

    def ready(address: str, names: Sequence[str]) -> None:
        out.print(f"Serving {', '.join(names)} at [bold]{address}[/] (Ctrl-C stops it)", highlight=False)
        if host not in LOOPBACK:
            out.print("[yellow]Everybody who reaches this address can use it; there is no password.[/]")

    serve_models(models, images=images, host=host, port=port, ready=ready)
    return Outcome()


@command()
def predict(
    *,
    image: Annotated[Path, Option("An image.", is_argument=True)],
    model: AnyModel = "sam-tiny",
    boxes: Annotated[tuple[str, ...], Option("x1,y1,x2,y2 in pixels; may be repeated.", flags=("--box",))] = (),
    points: Annotated[
        tuple[str, ...], Option("x,y or x,y,0 (background); all points are one prompt.", flags=("--point",))
    ] = (),
    output: Annotated[
        Path,
        Option(
            "PNG of the mask; several are numbered.", flags=("--output", "-o"), is_written=True, numbered_by="boxes"
        ),
    ] = Path("mask.png"),
    overlay: Annotated[
        Path | None, Option("Picture of the mask on the image to write (PNG or JPEG).", is_written=True)
    ] = None,
    backend: Backend = None,
    device: Device = "cpu",
) -> Outcome:
    """Segment one image with boxes or points."""
    from mixqsam.evaluation.coco import encode_masks
    from mixqsam.files import number_paths
    from mixqsam.pipeline.predict import run_prediction

    prediction, made = run_prediction(
        image,
        lambda width, height: _prompts(boxes, points, width=width, height=height),
        model=model,
        output=output,
        overlay=overlay,
        backend=backend,
        device=device,
    )
    found = prediction.masks[:, 0]
    rows = zip(found, prediction.scores[:, 0], number_paths(output, len(found)), encode_masks(found), strict=True)
    masks = [
        {"file": str(path), "pixels": int(mask.sum()), "predicted_iou": float(score), "segmentation": code}
        for mask, score, path, code in rows
    ]
    lines = [
        f"mask {index}: {mask['pixels']:,} pixels, predicted IoU {mask['predicted_iou']:.3f}"
        for index, mask in enumerate(masks, start=1)
    ]
    following = {
        line("serve", {"models": [model], "images": image.parent}): "draw boxes and click points in the browser"
    }
    return Outcome(data={"masks": masks}, lines=lines, made=made, next=following)


@command()
def predict_automatic(
    *,
    image: Annotated[Path, Option("An image.", is_argument=True)],
    model: AnyModel = "sam-tiny",
    options: Automatic,
    output: Annotated[
        Path, Option("JSON file of the masks to write.", flags=("--output", "-o"), is_written=True)
    ] = Path("masks.json"),
    overlay: Annotated[
        Path | None, Option("Picture of the masks on the image to write (PNG or JPEG).", is_written=True)
    ] = None,
    backend: Backend = None,
    device: Device = "cpu",
) -> Outcome:
    """Segment everything in one image: a grid of points prompts the model."""
    from mixqsam.cli.session import open_session
    from mixqsam.pipeline.predict_automatic import AutomaticFiles, describe_masks, run_automatic_prediction

    files = AutomaticFiles(output, overlay)
    masks = run_automatic_prediction(
        image, model=model, options=options, session=open_session(device=device), backend=backend, files=files
    )
    count = len(masks.scores)
    made = {output: "the masks: COCO's run lengths, boxes and scores"}
    if overlay is not None:
        made[overlay] = "the masks on the image"
    following = {line("serve", {"models": [model], "images": image.parent}): "segment everything in the browser"}
    lines = [f"{count:,} {'mask' if count == 1 else 'masks'}"]
    return Outcome(data={"masks": describe_masks(masks)}, lines=lines, made=made, next=following)


def _complete_format(typed: str) -> list[str]:
    return [name for name in ("onnx", "openvino", "web") if name.startswith(typed)]


@command()
def export(
    *,
    model: Annotated[Path, Option("A directory that quantize wrote.", is_argument=True)],
    output: OutputDirectory,
    format: Annotated[  # noqa: A002  (the word for it)
        str,
        Option("onnx, openvino, or web: a page for the browser.", flags=("--format", "-f"), complete=_complete_format),
    ] = "onnx",
    single_mask: Annotated[
        bool, Option("The decoder gives one mask for each prompt instead of four.", flags=("--single-mask",))
    ] = False,
    raw_image: Annotated[
        bool,
        Option(
            "The encoder takes an image [height, width, 3] of 0 … 255 at the frame's size, and prepares it.",
            flags=("--raw-image",),
        ),
    ] = False,
    compatible: Annotated[
        bool,
        Option("Write ONNX files for runtimes before ONNX Runtime 1.23: a byte per code.", flags=("--compatible",)),
    ] = False,
    runtime_package: Annotated[
        Path | None,
        Option(
            "For web: file of the npm package onnxruntime-web, as npm pack writes it.",
            default_help="the cache, else a download",
        ),
    ] = None,
    examples: Annotated[
        tuple[Path, ...], Option("For web: a picture to choose from; may be repeated.", flags=("--example",))
    ] = (),
    overwrite: Overwrite = False,
) -> Outcome:
    """Write encoder and decoder as ONNX or OpenVINO files, or as a page that runs them in the browser."""
    from mixqsam.cli.session import open_session
    from mixqsam.pipeline.export import PageParts, run_export

    exported = run_export(
        model,
        output,
        kind=format,
        session=open_session(),
        single=single_mask,
        raw_image=raw_image,
        compatible=compatible,
        page=PageParts(runtime_package, examples),
        overwrite=overwrite,
    )
    lines = [*_describe_downloads(exported.downloads), *_describe_float_units(exported.float_units)]
    data = {"directory": str(output), "files": dict(exported.files), "float_units": dict(exported.float_units)}
    made = {output / name: f"{size / 1e6:.2f} MB" for name, size in exported.files.items()}
    if exported.downloads:
        data["downloads"] = dict(exported.downloads)
        following = {f"python -m http.server --directory {shlex.quote(str(output))}": "open the page on port 8000"}
        return Outcome(data=data, lines=lines, made=made, next=following)
    following = {
        line("predict", {"image": "IMAGE", "model": str(output), "boxes": ["x1,y1,x2,y2"]}): "run it",
        line("benchmark", {"model": str(model)}): "see how fast it is here",
    }
    return Outcome(data=data, lines=lines, made=made, next=following)


def _describe_float_units(reasons: Mapping[str, str]) -> list[str]:
    """Say how many units compute in float; `reasons` maps their names to the reason."""
    lines = []
    for reason, count in Counter(reasons.values()).items():
        first = next(name for name, why in reasons.items() if why == reason)
        units = "1 unit computes with its" if count == 1 else f"{count} units compute with their"
        why = reason if count == 1 else re.sub(r"^its\b", "their", reason)
        lines.append(f"{units} quantized values in float arithmetic ({why}), e.g. {first}")
    return lines


def _describe_downloads(downloads: Mapping[str, int]) -> list[str]:
    """Say what a visitor of the page downloads."""
    if not downloads:
        return []
    model, wasm, webgpu = (f"{downloads[part] / 1e6:.2f} MB" for part in ("model", "wasm", "webgpu"))
    return [f"A visitor downloads {model} of model, and {wasm} of runtime (WebAssembly) or {webgpu} (WebGPU)"]


def _prompts(boxes: Sequence[str], points: Sequence[str], *, width: int, height: int) -> "Prompts":
    from mixqsam.pipeline.predict import make_prompts

    if bool(boxes) == bool(points):
        raise InputError("Give --box (one or more) or --point (one or more), and not both.")
    return make_prompts(
        [_numbers(box, "--box", (4,)) for box in boxes],
        [_numbers(point, "--point", (2, 3)) for point in points],
        width=width,
        height=height,
    )


def _numbers(text: str, option: str, counts: tuple[int, ...]) -> list[float]:
    import math

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts or not all(math.isfinite(value) for value in values):
        form = "x1,y1,x2,y2" if counts == (4,) else "x,y or x,y,label"
        raise AnnotationError(f"{option} {text!r:.60}: write {form}.")
    return values
