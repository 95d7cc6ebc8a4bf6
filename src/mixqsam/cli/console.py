"""Print progress, tables and errors of the command line."""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from mixqsam.cli.environment import describe_broken_import
from mixqsam.errors import InputError, MixqsamError, ModelError, shortened
from mixqsam.options.numbers import format_giga, format_time

# Lines are not wrapped, so that paths and commands can be copied; tables fit the width.
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True)
class Table:
    """A table for people; `numbers` names the columns of numbers, by default all but the first."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] | None = None


def show_table(table: Table) -> None:
    """Print a table."""
    drawn = RichTable(title=table.title, title_justify="left")
    right = table.columns[1:] if table.numbers is None else table.numbers
    for column in table.columns:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    out.print(drawn, soft_wrap=False)


# Figures of a model: key → heading and format of the number.
_FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "size": ("size", lambda value: f"{value / 1e6:.2f} MB"),
    "bitops": ("GBitOps", format_giga),
    "latency": ("predicted latency", format_time),
    "measured": ("measured latency", format_time),
    "ap": ("AP", lambda value: f"{value:.1f}"),
    "ap50": ("AP50", lambda value: f"{value:.1f}"),
    "ap75": ("AP75", lambda value: f"{value:.1f}"),
    "small": ("AP small", lambda value: f"{value:.1f}"),
    "medium": ("AP medium", lambda value: f"{value:.1f}"),
    "large": ("AP large", lambda value: f"{value:.1f}"),
    "masks": ("masks per image", lambda value: f"{value:.1f}"),
    "fidelity": ("IoU with float's masks", lambda value: f"{value:.3f}"),
    "same": ("float's masks found", lambda value: f"{value:.1f}%"),
    "recall": ("recall, IoU 0.5:0.95", lambda value: f"{value:.1f}"),
    "recall50": ("recall, IoU 0.5", lambda value: f"{value:.1f}"),
    "miou": ("mIoU", lambda value: f"{value:.1f}"),
    "accuracy": ("pixel accuracy", lambda value: f"{value:.1f}"),
    "map50_voc07": ("mAP50, VOC 07", lambda value: f"{value:.1f}"),
    "map50": ("mAP50, area", lambda value: f"{value:.1f}"),
    "map": ("mAP50:95, area", lambda value: f"{value:.1f}"),
    "truth_iou": ("mean IoU to truth", lambda value: f"{value:.3f}"),
    "mean_iou": ("mean IoU to float", lambda value: f"{value:.3f}"),
    "kl": ("KL to float", lambda value: f"{value:.2e}" if value else "0"),
}


def models_table(title: str, models: Mapping[str, Mapping[str, Any]]) -> Table:
    """Make a table with a column for each model, and a row for each known figure."""
    figures = _known_figures(models)
    rows = [[heading, *(_format_cell(model, key) for model in models.values())] for key, heading in figures.items()]
    return Table(title, ["", *models], rows)


def rows_table(title: str, models: Mapping[str, Mapping[str, Any]]) -> Table:
    """Make a table with a row for each model, and a column for each known figure."""
    figures = _known_figures(models)
    rows = [[name, *(_format_cell(model, key) for key in figures)] for name, model in models.items()]
    return Table(title, ["", *figures.values()], rows)


def _known_figures(models: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Key → heading of the figures that at least one model has."""
    return {
        key: heading
        for key, (heading, _) in _FIGURES.items()
        if any(model.get(key) is not None for model in models.values())
    }


def _format_cell(model: Mapping[str, Any], key: str) -> str:
    value = model.get(key)
    return "–" if value is None else _FIGURES[key][1](value)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does, without partial results."""


@contextlib.contextmanager
def _handle_sigterm() -> Iterator[None]:
    """Raise an exception on SIGTERM. In a group, processes wait for each other and must end at once instead."""
    if threading.current_thread() is not threading.main_thread() or "LOCAL_RANK" in os.environ:
        yield
        return

    def stop(number: int, frame: object) -> None:
        del number, frame
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_HUB = "The hub cannot be reached. Check the network, or give a local directory of the model instead of a hub id."
# Packages that talk to the hub.
_HUB_PACKAGES = {"httpx", "httpcore", "requests", "urllib3", "huggingface_hub"}


def is_hub_error(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, comes from the packages that talk to the hub."""
    cause: BaseException | None = error
    while cause is not None:
        if any(kind.__module__.partition(".")[0] in _HUB_PACKAGES for kind in type(cause).__mro__):
            return True
        cause = cause.__cause__
    return False


# Exit code of internal errors (EX_SOFTWARE).
_FAULT = 70


def run_guarded(action: Callable[[], Any], *, debug: bool, as_json: bool = False, resumes: bool = True) -> int:
    """Run a command; turn errors into one paragraph and an exit code.

    Args:
        action: the command.
        debug: errors are not caught.
        as_json: errors are printed as JSON.
        resumes: whether the command caches finished stages.

    Returns:
        The exit code.
    """
    try:
        with _handle_sigterm():
            action()
    except MixqsamError as error:
        if debug:
            raise
        return print_error(type(error).__name__, str(error), code=error.exit_code, as_json=as_json)
    except KeyboardInterrupt as stopped:
        rest = "Finished stages are cached; the same command resumes from there."
        err.print(f"Stopped. {rest if resumes else 'Nothing was left half-written.'}")
        return 143 if isinstance(stopped, _Terminated) else 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except Exception as error:
        if debug:
            raise
        return _print_foreign_error(error, as_json=as_json)
    return 0


def _print_foreign_error(error: Exception, *, as_json: bool) -> int:
    """Print an error that is not one of ours: of the network, of another library, or a fault of mixqsam."""
    kind = type(error).__name__
    if is_hub_error(error):
        return print_error("ModelError", f"{_HUB} {shortened(error)}", code=ModelError.exit_code, as_json=as_json)
    if (broken := describe_broken_import(error)) is not None:
        return print_error(kind, broken, code=InputError.exit_code, as_json=as_json)
    message = (
        f"Internal error: {kind}: {error}. This is a bug of mixqsam; please run the command again with --debug, and "
        "report the output."
    )
    return print_error(kind, message, code=_FAULT, as_json=as_json)


def print_error(kind: str, message: str, *, code: int, as_json: bool) -> int:
    """Print an error for people, and as JSON if wanted; return the exit code."""
    err.print(f"[bold red]Error:[/] {escape(message)}", highlight=False)
    if as_json:
        print(json.dumps({"error": kind, "message": message, "exit_code": code}, indent=1))
    return code
