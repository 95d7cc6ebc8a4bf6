"""The one place where options become typer's parameters, and what typer gives becomes values again."""

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
    """A keyword parameter of a typer command for each option."""
    return [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=... if entry.is_required else _shown(entry),
            annotation=Annotated[_kind(entry), _info(entry)],
        )
        for entry in entries
    ]


def _kind(entry: Entry) -> Any:
    if entry.is_many and not entry.option.is_list:
        return list[entry.kind] if entry.is_required else list[entry.kind] | None  # type: ignore[name-defined]
    # Lists, words, and what is parsed are texts to typer.
    kind = str if entry.is_many or entry.option.parse is not None else entry.kind
    return kind if entry.is_required or entry.default is not None else kind | None


def _shown(entry: Entry) -> Any:
    """The default as typer has it and help shows it."""
    value, option = entry.default, entry.option
    if option.write is not None and not isinstance(value, str | None) and not _is_texts(value):
        value = option.write(value)
    if isinstance(value, tuple | list):
        return ",".join(value) if option.is_list else list(value) or None
    return value


def _is_texts(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(one, str) for one in value)


# Short, so that the names of options have room on a terminal of 80 columns.
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def _metavar(entry: Entry) -> str | None:
    if entry.option.is_argument:
        return entry.name.upper()
    return _METAVARS.get(str if entry.option.is_list or entry.option.parse else entry.kind)


def _help(entry: Entry) -> str:
    """The option's sentence, and what its value may be."""
    text, option = entry.option.help, entry.option
    if entry.words:
        text += f" {'Of' if entry.is_many else 'One of'} {', '.join(entry.words)}."
    elif option.minimum is not None and option.maximum is not None:
        text += f" From {option.minimum:g} to {option.maximum:g}."
    # What stands in brackets would be taken for markup.
    return escape(text)


def _info(entry: Entry) -> Any:
    option = entry.option
    shared: dict[str, Any] = {
        "help": _help(entry),
        "show_default": option.default_help or True,
        "rich_help_panel": option.panel or None,
        "autocompletion": option.complete,
        "hidden": option.is_advanced and not os.environ.get("MIXQSAM_HELP_ALL"),
        "metavar": entry.name.upper()
        if option.is_argument
        else _METAVARS.get(str if option.is_list or option.parse else entry.kind),
    }
    if option.is_argument:
        return typer.Argument(**shared)
    return typer.Option(*entry.flags, **shared)


def gather(
    entries: Sequence[Entry], given: Mapping[str, Any], settings: Mapping[str, Any], file: str
) -> dict[str, Any]:
    """The values of all options that were given, converted and checked.

    Args:
        entries: the options of a command.
        given: name → what stands on the command line.
        settings: name → what stands in a configuration file; the command line wins.
        file: the configuration file, for errors.

    Raises:
        InputError, BudgetError: a value that an option cannot have.
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
    """A value as words of a command line."""
    if entry.kind is bool:
        names = entry.flags[0].split("/")
        return [names[0]] if value else names[1:]
    if entry.is_many and not isinstance(value, str):
        words = [",".join(map(str, value))] if entry.option.is_list else [str(one) for one in value]
    else:
        words = [str(value)]
    if entry.option.is_argument:
        return words
    return [word for one in words for word in (entry.flags[0], one)]
