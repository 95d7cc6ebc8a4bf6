"""What a command has found and made, and how it is told: to people as tables, to machines as JSON."""

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
        data: JSON-able; what `--json` prints.
        tables: for people.
        lines: single facts, for people.
        made: file or directory → what it is.
        next: command → what it would do.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    made: Mapping[Path, str] = field(default_factory=dict)
    next: Mapping[str, str] = field(default_factory=dict)


def tell(outcome: Outcome | None, *, as_json: bool) -> None:
    """Print an outcome; nothing for a process that leaves the talking to another."""
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
    _closing({str(path): what for path, what in outcome.made.items()}, outcome.next)


def _closing(made: Mapping[str, str], following: Mapping[str, str]) -> None:
    """What was made and what to do next: aligned, and never broken, so that it can be copied."""
    for title, style, rows in (("Made", "green", made), ("Next", "cyan", following)):
        if rows:
            out.print(f"[bold]{title}[/]")
        width = max((len(text) for text in rows), default=0)
        for text, what in rows.items():
            filling = " " * (width - len(text))
            out.print(f"  [{style}]{escape(text)}[/]{filling}  {escape(what)}", highlight=False)
