"""The command that shares a quantized model. Only its body imports modules that load torch."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from mixqsam.cli.command import command
from mixqsam.cli.console import err
from mixqsam.cli.outcome import Outcome
from mixqsam.errors import InputError
from mixqsam.options.fields import Option
from mixqsam.pipeline.sharing import parse_licence

if TYPE_CHECKING:
    from mixqsam.pipeline.push import Push


@command()
def push(
    *,
    directory: Annotated[Path, Option("A directory that quantize wrote.", is_argument=True)],
    repository: Annotated[str, Option("OWNER/NAME on the hub; it is made if there is none.", is_argument=True)],
    license: Annotated[  # noqa: A002  (the hub's word)
        str | None,
        Option(
            "Licence that the model card names, e.g. apache-2.0.",
            parse=parse_licence,
            default_help="that of the directory's card",
        ),
    ] = None,
    with_images: Annotated[
        bool,
        Option("Also send the photographs, and the pages that show or name them.", flags=("--with-images",)),
    ] = False,
    private: Annotated[bool, Option("Make a new repository private.", flags=("--private",))] = False,
    yes: Annotated[bool, Option("Send without asking.", flags=("--yes", "-y"))] = False,
) -> Outcome:
    """Send a quantized directory to the hub, after showing what will be sent."""
    from mixqsam.pipeline.push import plan_push, send

    planned = plan_push(directory, repository, with_images=with_images, licence=license)
    for text in _describe_push(planned):
        err.print(text, highlight=False)
    if not yes:
        _ask_to_send(repository)
    url = send(planned, private=private)
    return Outcome(
        data={"url": url, "sent": planned.sizes, "kept": dict(planned.kept)},
        lines=[f"{len(planned.files)} files are at {url}"],
    )


def _describe_push(planned: "Push") -> list[str]:
    """Say what is sent and what stays, with sizes and reasons."""
    sizes = planned.sizes
    width = max(map(len, [*sizes, *planned.kept]))
    sent = [f"  {name:{width}}  {_format_bytes(size)}" for name, size in sizes.items()]
    kept = [f"  {name:{width}}  {reason}" for name, reason in planned.kept.items()]
    title = f"To {planned.repository} go {len(sizes)} files, {_format_bytes(sum(sizes.values()))}:"
    return [title, *map(escape, sent), *(["These stay here:", *map(escape, kept)] if kept else [])]


def _format_bytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _ask_to_send(repository: str) -> None:
    """Ask whether to send.

    Raises:
        InputError: the user declines, or nobody can be asked.
    """
    if not sys.stdin.isatty():
        raise InputError("Nobody can be asked here whether to send these files; add --yes.")
    if not typer.confirm(f"Send these files to {repository}?", err=True):
        raise InputError("Nothing was sent.")
