"""The outcome of a quantization for the command line; loaded only when a command runs."""

from collections.abc import Mapping

from mixqsam.cli.outcome import Outcome
from mixqsam.cli.tables import allocation_table, proof, search_table
from mixqsam.pipeline.quantize import Result
from mixqsam.pipeline.quantized_directory import PAGE
from mixqsam.reporting.searched import describe_search


def describe_quantization(title: str, result: Result, following: Mapping[str, str]) -> Outcome:
    """Make the outcome of a quantization: its tables, its files, and the commands that follow."""
    search = result.run.search
    folder = result.directory
    facts = {name: value for name, value in result.allocation.to_json().items() if name != "plan"}
    return Outcome(
        data={"directory": str(folder), "run": result.run.model_dump(), "allocation": facts},
        tables=[
            *([search_table(search)] if search else []),
            allocation_table(
                _title_with_basis(title, result),
                result.analysis,
                result.allocation,
                result.uniform,
                result.check,
                result.run.latency,
            ),
        ],
        lines=[
            *(describe_search(search) if search else []),
            *proof(result.allocation),
            "Seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in result.run.seconds.items()),
        ],
        made={
            folder: _describe_files(result),
            folder / PAGE: "report, for the browser",
            folder / "summary.md": "report, as text",
        },
        next=following,
    )


def _title_with_basis(title: str, result: Result) -> str:
    """Add the images and prompts of the evaluation to a title."""
    return f"{title}; quality on {next(iter(result.check.values())).basis}" if result.check else title


def _describe_files(result: Result) -> str:
    """Say how large the file is, and why it is larger than the table says."""
    file_bytes, size = result.run.file_bytes, result.allocation.size
    header = (
        f" ({size / 1e6:.2f} MB as in the table, and {(file_bytes - size) / 1e6:.2f} MB of names and checksums)"
        if file_bytes > size
        else ""
    )
    return f"quantized model; the file has {file_bytes / 1e6:.2f} MB{header}"
