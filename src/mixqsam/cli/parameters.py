"""Convert options to typer's parameters, and the values of typer back to options."""

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from mixqsam.options.fields import Entry
from mixqsam.options.values import convert


def parameters(entries: Iterable[Entry]) -> list[inspect.Parameter]:
    """Make a keyword parameter of a typer command for each option."""
    return [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=... if entry.is_required else _show_default(entry),
            annotation=Annotated[_kind(entry), _info(entry)],
        )
        for entry in entries
    ]


def _kind(entry: Entry) -> Any:
    if entry.option.is_repeated:
        return list[str] if entry.is_required else list[str] | None
    if entry.is_many and not entry.option.is_list:
        return list[entry.kind] if entry.is_required else list[entry.kind] | None  # type: ignore[name-defined]
    # Lists, words and parsed values are texts to typer.
    kind = str if entry.is_many or entry.option.parse is not None else entry.kind
    return kind if entry.is_required or entry.default is not None else kind | None


def _show_default(entry: Entry) -> Any:
    """Convert the default for typer and its help."""
    value, option = entry.default, entry.option
    if option.write is not None and not isinstance(value, str | None) and not _is_texts(value):
        value = option.write(value)
    if isinstance(value, tuple | list):
        return ",".join(value) if option.is_list else list(value) or None
    return value


def _is_texts(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(text, str) for text in value)


# Short, because a terminal of 80 columns also has to show the names of options.
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def _metavar(entry: Entry) -> str | None:
    if entry.option.is_argument:
        return entry.name.upper()
    is_text = entry.option.is_list or (entry.option.parse is not None and not entry.option.is_repeated)
    return _METAVARS.get(str if is_text else entry.kind)


def _help(entry: Entry) -> str:
    """Write the option's sentence, and its possible values."""
    text, option = entry.option.help, entry.option
    if entry.words:
        text += f" {'Of' if entry.is_many else 'One of'} {', '.join(entry.words)}."
    elif option.minimum is not None and option.maximum is not None:
        text += f" From {option.minimum:g} to {option.maximum:g}."
    # Rich would take text in brackets for markup.
    return escape(text)


def _info(entry: Entry) -> Any:
    option = entry.option
    shared: dict[str, Any] = {
        "help": _help(entry),
        "show_default": option.default_help or True,
        "rich_help_panel": option.panel or None,
        "autocompletion": option.complete,
        "hidden": option.is_advanced and not os.environ.get("MIXQSAM_HELP_ALL"),
        "metavar": _metavar(entry),
    }
    if option.is_argument:
        return typer.Argument(**shared)
    return typer.Option(*entry.flags, **shared)


def gather(
    entries: Sequence[Entry], given: Mapping[str, Any], settings: Mapping[str, Any], file: str
) -> dict[str, Any]:
    """Gather the given options, converted and checked.

    Args:
        entries: the options of a command.
        given: name → value on the command line.
        settings: name → value in a configuration file; the command line wins.
        file: the configuration file, for errors.

    Raises:
        InputError, BudgetError: a value is not valid.
    """
    values: dict[str, Any] = {}
    for entry in entries:
        if entry.name in given:
            values[entry.name] = convert(entry, given[entry.name], label=entry.label)
        elif entry.name in settings:
            values[entry.name] = convert(entry, settings[entry.name], label=f"{file}: {entry.name}")
        elif entry.option.parse is not None and not entry.is_required and entry.default is not None:
            values[entry.name] = convert(entry, entry.default, label=entry.label)
    return values


def spell(entry: Entry, value: Any) -> list[str]:
    """Write an option as words of a command line."""
    if entry.kind is bool:
        names = entry.flags[0].split("/")
        return [names[0]] if value else names[1:]
    if isinstance(value, list | tuple):
        words = [",".join(map(str, value))] if entry.option.is_list else [str(item) for item in value]
    else:
        words = [str(value)]
    if entry.option.is_argument:
        return words
    return [part for word in words for part in (entry.flags[0], word)]
