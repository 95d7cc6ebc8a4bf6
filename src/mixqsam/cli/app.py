"""The command `mixqsam`, and the options of all its commands."""

import os
from typing import Annotated

import typer

from mixqsam import __version__
from mixqsam.cli.usage import Group

app = typer.Typer(
    name="mixqsam",
    cls=Group,
    help=(
        "Quantize the Segment Anything Model with a separate bit-width for every layer (Mix-QSAM).\n\n"
        "Start with [bold]mixqsam demo[/], then [bold]mixqsam quantize --images FOLDER --budget W4A4 -o out[/]."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(has_flag: bool) -> None:
    if has_flag:
        typer.echo(f"mixqsam {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_show_version, is_eager=True)
    ] = False,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all cores.")] = 0,
) -> None:
    """Handle the options of all commands."""
    del version
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
