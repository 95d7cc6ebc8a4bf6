"""The commands that bring quantized models elsewhere: parsing; no logic."""

from pathlib import Path
from typing import Annotated

import typer

from mixqsam.cli.options import Overwrite


def export(
    model: Annotated[Path, typer.Argument(help="A directory that quantize wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to write.")],
    kind: Annotated[str, typer.Option("--format", "-f", help="onnx or openvino.")] = "onnx",
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
) -> None:
    """Write encoder and decoder as ONNX or OpenVINO files."""
    from mixqsam.cli import commands

    commands.export(model, output=output, kind=kind, single=single, raw_image=raw_image, overwrite=overwrite)


def benchmark(
    model: Annotated[Path, typer.Argument(help="A directory that quantize wrote.")],
    backends: Annotated[
        str, typer.Option(help="Of torch, onnx, openvino, separated by commas; default: all that are installed.")
    ] = "",
    image: Annotated[Path | None, typer.Option(help="Image to encode; default: one of noise.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="How often each is timed; medians are told.")] = 5,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure memory too.")] = True,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
) -> None:
    """Time encoder and decoder on every backend, in turns with the float model in PyTorch."""
    from mixqsam.cli import commands

    commands.benchmark(model, backends=backends, image=image, runs=runs, memory=memory, output=output)
