"""The commands that show quantized models, use them and bring them elsewhere: parsing; no logic."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixqsam.cli.options import (
    Annotations,
    CacheFolder,
    Detections,
    Format,
    Grid,
    Limit,
    Model,
    Overwrite,
    Reference,
    SkipMissing,
)

if TYPE_CHECKING:
    from mixqsam.cli.outcome import Outcome


def report(
    directories: Annotated[
        list[Path], typer.Argument(help="A directory that quantize wrote; others are drawn beside it.")
    ],
    images: Annotated[
        Path | None, typer.Option("--images", "-i", help="Images to compare all of them with the float model on.")
    ] = None,
    annotations: Annotations = None,
    boxes: Detections = None,
    grid: Grid = 4,
    skip_missing: SkipMissing = False,
    limit: Limit = None,
    reference: Reference = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="HTML file to write.  [default: report.html in the first]")
    ] = None,
    cache: CacheFolder = None,
) -> "Outcome | None":
    """Write the report of a quantized model: one HTML file that opens offline."""
    from mixqsam.cli import commands, parsing

    return commands.report(
        directories,
        parsing.optional_data(images, annotations=annotations, detections=boxes, grid=grid, skip_missing=skip_missing),
        limit=limit,
        reference=reference,
        output=output,
        cache=cache,
    )


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Quantized or exported directories, float models; that of the first is served too."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", "-i", help="Folder of images to choose from.  [default: the demonstration's]"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; with 0.0.0.0 others can reach the page.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 7860,
) -> "Outcome | None":
    """A page in the browser: two models side by side on your images, and a slider for the budget."""
    from mixqsam.cli import uses

    return uses.serve(models or ["sam-tiny"], images=images, host=host, port=port)


def predict(
    image: Annotated[Path, typer.Argument(help="An image.")],
    model: Model = "sam-tiny",
    box: Annotated[list[str] | None, typer.Option(help="x1,y1,x2,y2 in pixels; may be repeated.")] = None,
    point: Annotated[
        list[str] | None, typer.Option(help="x,y or x,y,0 (background); all points are one prompt.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Mask to write (PNG).")] = Path("mask.png"),
    overlay: Annotated[Path | None, typer.Option(help="Picture of the mask on the image (PNG).")] = None,
    backend: Annotated[
        str | None, typer.Option(help="torch, onnx or openvino; default: what the model's files are for.")
    ] = None,
) -> "Outcome | None":
    """Segment one image with boxes or points."""
    from mixqsam.cli import uses

    return uses.predict(
        image, model=model, boxes=box or [], points=point or [], output=output, overlay=overlay, backend=backend
    )


def export(
    model: Annotated[Path, typer.Argument(help="A directory that quantize wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to write.")],
    kind: Format = "onnx",
    single: Annotated[
        bool, typer.Option("--single-mask", help="The decoder gives one mask for each prompt instead of four.")
    ] = False,
    raw_image: Annotated[
        bool,
        typer.Option(
            "--raw-image",
            help="The encoder takes an image [height, width, 3] of 0 … 255 at the frame's size, and prepares it.",
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> "Outcome | None":
    """Write encoder and decoder as ONNX or OpenVINO files."""
    from mixqsam.cli import uses

    return uses.export(model, output=output, kind=kind, single=single, raw_image=raw_image, overwrite=overwrite)


def benchmark(
    model: Annotated[Path, typer.Argument(help="A directory that quantize wrote.")],
    backends: Annotated[
        str, typer.Option(help="Of torch, onnx, openvino, separated by commas; default: all that are installed.")
    ] = "",
    image: Annotated[Path | None, typer.Option(help="Image to encode; default: one of noise.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="How often each is timed; medians are told.")] = 5,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure memory too.")] = True,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
) -> "Outcome | None":
    """Time encoder and decoder on every backend, in turns with the float model in PyTorch."""
    from mixqsam.cli import uses

    return uses.benchmark(model, backends=backends, image=image, runs=runs, memory=memory, output=output)
