"""The outcome of a command, printed as tables or as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape

from mixqsam.cli.console import Table, out, show_table


@dataclass(frozen=True)
class Outcome:
    """A finished command.

    Attributes:
        data: JSON values that `--json` prints.
        tables: tables for people.
        lines: lines of text for people.
        made: file or directory that was written → description.
        next: suggested command → its purpose.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    made: Mapping[Path, str] = field(default_factory=dict)
    next: Mapping[str, str] = field(default_factory=dict)


def print_outcome(outcome: Outcome | None, *, as_json: bool) -> None:
    """Print an outcome; None prints nothing, as in processes of a group that do not report."""
    if outcome is None:
        return
    if as_json:
        made = [{"path": str(path), "what": what} for path, what in outcome.made.items()]
        print(json.dumps({**outcome.data, "made": made}, indent=1, allow_nan=False))
        return
    for table in outcome.tables:
        show_table(table)
    for line in outcome.lines:
        out.print(line, highlight=False)
    _print_closing({str(path): what for path, what in outcome.made.items()}, outcome.next)


def _print_closing(made: Mapping[str, str], following: Mapping[str, str]) -> None:
    """Print written files and next commands aligned, without line breaks, so that they can be copied."""
    for title, style, rows in (("Made", "green", made), ("Next", "cyan", following)):
        if rows:
            out.print(f"[bold]{title}[/]")
        width = max((len(text) for text in rows), default=0)
        for text, what in rows.items():
            padding = " " * (width - len(text))
            out.print(f"  [{style}]{escape(text)}[/]{padding}  {escape(what)}", highlight=False)
