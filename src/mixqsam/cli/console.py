"""What the command line shows: progress, tables, errors."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mixqsam.errors import MixqsamError

T = TypeVar("T")

out = Console()
err = Console(stderr=True)


class Bars:
    """Progress bars on a terminal; on a pipe, nothing but notes."""

    def track(
        self, items: Iterable[T], *, label: str, total: int, steps: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """Show a bar with the time left while `items` are worked on; it goes when they are done."""
        columns = (
            TextColumn("{task.description:34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task(label, total=total)
            for item in items:
                yield item
                bar.advance(task, steps(item) if steps else 1)

    def note(self, message: str) -> None:
        """Print a note."""
        err.print(escape(message), style="yellow" if "Skipped" in message else "dim", highlight=False)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)


# What may be known of a model: key → heading and how a number is written.
_FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "size": ("size", lambda value: f"{value / 1e6:.2f} MB"),
    "bitops": ("GBitOps", lambda value: f"{value / 1e9:,.0f}"),
    "ap": ("AP", lambda value: f"{value:.1f}"),
    "ap50": ("AP50", lambda value: f"{value:.1f}"),
    "ap75": ("AP75", lambda value: f"{value:.1f}"),
    "small": ("AP small", lambda value: f"{value:.1f}"),
    "medium": ("AP medium", lambda value: f"{value:.1f}"),
    "large": ("AP large", lambda value: f"{value:.1f}"),
    "truth_iou": ("mean IoU to truth", lambda value: f"{value:.3f}"),
    "mean_iou": ("mean IoU to float", lambda value: f"{value:.3f}"),
    "kl": ("KL to float", lambda value: f"{value:.2e}"),
}


def models_table(title: str, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Print models side by side: a column for each, a row for each figure that is known of any."""
    rows = [
        [heading, *("–" if (value := one.get(key)) is None else write(value) for one in models.values())]
        for key, (heading, write) in _FIGURES.items()
        if any(one.get(key) is not None for one in models.values())
    ]
    show_table(title, ["", *models], rows)


def guarded(action: Callable[[], Any], *, debug: bool) -> int:
    """Run a command; turn what can go wrong into one paragraph and an exit code."""
    try:
        action()
    except MixqsamError as error:
        if debug:
            raise
        err.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False)
        return error.exit_code
    except KeyboardInterrupt:
        err.print("Stopped. Finished stages are kept; the same command goes on from there.")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    return 0
