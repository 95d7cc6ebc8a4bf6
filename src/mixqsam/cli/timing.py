"""The command that times quantized models. Only its body imports modules that load torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mixqsam.cli.command import command, line
from mixqsam.cli.console import Table
from mixqsam.cli.following import new_path
from mixqsam.cli.options import Cache, OutputFile
from mixqsam.cli.outcome import Outcome
from mixqsam.options.fields import Option
from mixqsam.options.numbers import format_giga

if TYPE_CHECKING:
    from mixqsam.pipeline.benchmark import Benchmark


@command()
def benchmark(
    *,
    model: Annotated[
        Path, Option("A directory that quantize wrote; with --units also a float model.", is_argument=True)
    ],
    units: Annotated[
        bool,
        Option(
            "Measure the times of the units that budgets such as latency<=0.5x@openvino need; the cache keeps them.",
            flags=("--units",),
        ),
    ] = False,
    backends: Annotated[
        tuple[str, ...],
        Option("Of torch, onnx, openvino, separated by commas.", is_list=True, default_help="all installed ones"),
    ] = (),
    image: Annotated[Path | None, Option("Image to encode.", default_help="random noise")] = None,
    runs: Annotated[int, Option("Number of timed runs; the result is their median.", minimum=1)] = 5,
    memory: Annotated[bool, Option("Also measure memory.", flags=("--memory/--no-memory",))] = True,
    everything: Annotated[
        bool,
        Option("Also time a batch of points, as segmenting everything prompts them.", flags=("--everything",)),
    ] = False,
    output: OutputFile = None,
    cache: Cache = None,
) -> Outcome:
    """Time encoder and decoder on every backend, in turns with the float model in PyTorch."""
    from mixqsam.cli.session import open_session
    from mixqsam.files import write_json
    from mixqsam.pipeline.benchmark import time_model

    times = time_model(
        model,
        backends=backends,
        units=units,
        image=image,
        runs=runs,
        memory=memory,
        everything=everything,
        session=open_session(cache),
    )
    if output is not None:
        write_json(output, times.to_json())
    return Outcome(
        data=times.to_json(),
        tables=[_times_table(times, runs=runs), *_everything_tables(times)],
        lines=[] if units else [f"In theory {times.size / 1e6:.2f} MB, {format_giga(times.bitops)} GBitOps per image"],
        made={} if output is None else {output: "these figures as JSON"},
        next=_after_benchmark(model, times),
    )


def _times_table(times: "Benchmark", *, runs: int) -> Table:
    """Make the table of a benchmark."""
    rows = [
        [
            row.name,
            f"{row.encoder * 1e3:,.0f} ms",
            f"{row.speedup:.2f}×",
            f"{row.decoder * 1e3:,.0f} ms",
            "–" if row.memory is None else f"{row.memory / 1e9:.2f} GB",
            f"{row.file_bytes / 1e6:.2f} MB",
        ]
        for row in times.rows
    ]
    timed = f"Medians of {runs} runs" if runs > 1 else "One run"
    about = f"Sums of the times of units, {times.threads} threads" if times.units else timed
    columns = ["", "image (encoder)", "speed", "prompt (decoder)", "peak memory", "files"]
    return Table(f"{about}, image of {times.image[0]}×{times.image[1]}", columns, rows)


def _everything_tables(times: "Benchmark") -> list[Table]:
    """Make the table of segmenting everything, where that was timed."""
    measured = {row.name: row.everything for row in times.rows if row.everything is not None}
    if not measured:
        return []
    base = next(iter(measured.values()))
    rows = [
        [
            name,
            f"{one.batch * 1e3:,.0f} ms",
            f"{one.points_per_second:,.0f}",
            f"{one.points_per_second / base.points_per_second:.2f}×",
            f"{one.image:,.1f} s",
        ]
        for name, one in measured.items()
    ]
    columns = ["", f"{base.points} points", "points per second", "speed", "image"]
    return [Table("Segment everything: a batch of points; an image with the default grid (estimated)", columns, rows)]


def _after_benchmark(model: Path, times: "Benchmark") -> dict[str, str]:
    if times.units:
        backend = next(iter(times.units))
        values = {"model": str(model), "images": "FOLDER", "budget": f"latency<=0.5x@{backend}", "output": "OUT"}
        return {line("quantize", values): "a model that takes half the time, where bits can do that"}
    values = {"model": str(model), "format": "openvino", "output": new_path(f"{model}-openvino")}
    return {line("export", values): "files for a faster backend (or onnx)"}
