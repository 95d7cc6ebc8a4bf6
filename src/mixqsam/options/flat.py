"""Flat lists of options, shared by the command line, configuration files and `run.json`."""

from collections.abc import Mapping
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any

from mixqsam.errors import InputError
from mixqsam.options.fields import Entry, Hint, Nested, Option, members
from mixqsam.options.values import OptionClass, to_json_value


def flatten(owner: Any, nested: Nested | None = None) -> list[Entry]:
    """List all options of a class, or of a function with such parameters, in the order of the fields.

    A name that occurs in two classes is one option; the first class describes it.
    """
    nesting = nested or Nested()
    entries: list[Entry] = []
    for name, hint, default in members(owner):
        if name in nesting.without:
            continue
        if isinstance(hint.note, Option):
            entries.append(_nest(hint.entry(name, default), nesting))
        elif hint.option_class is not None:
            inner = flatten(hint.option_class, replace(hint.nested, without=hint.nested.without + nesting.without))
            if default is None:
                # An optional class has no required options.
                inner = [replace(entry, default=None) if entry.is_required else entry for entry in inner]
            entries += [_nest(entry, nesting) for entry in inner]
    return list({entry.name: entry for entry in reversed(entries)}.values())[::-1]


def _nest(entry: Entry, nested: Nested) -> Entry:
    """Rename an option for the class that its own class is nested in."""
    flags = ("--" + (nested.prefix + entry.name).replace("_", "-"),) if nested.prefix else entry.option.flags
    option = replace(entry.option, flags=flags, is_advanced=entry.option.is_advanced or nested.is_advanced)
    if nested.purpose:
        option = replace(option, help=_describe(option.help, nested.purpose))
    if entry.name in nested.inherit:
        option = replace(option, default_help=f"as {entry.flags[0]}")
    return replace(
        entry,
        name=nested.prefix + entry.name,
        option=option,
        default=None if entry.name in nested.inherit else entry.default,
    )


def _describe(text: str, purpose: str) -> str:
    """Begin the help of an option with its purpose; names in capitals stay."""
    is_name = text[:2].isupper()
    return f"{purpose}: {text if is_name else text[0].lower() + text[1:]}"


def _compose(inner: Nested, outer: Nested) -> Nested:
    """Combine two levels of nesting."""
    return Nested(outer.prefix + inner.prefix, outer.without + inner.without, inner.inherit)


def assemble(owner: Any, values: Mapping[str, Any], nested: Nested | None = None) -> dict[str, Any]:
    """Make the arguments of a class or a function from flat values; missing values are omitted.

    Raises:
        InputError: an optional class lacks a required value, or a value is not valid.
    """
    nesting = nested or Nested()
    arguments: dict[str, Any] = {}
    for name, hint, default in members(owner):
        if name in nesting.without:
            continue
        if not isinstance(hint.note, Option):
            arguments |= _assemble_class(name, hint, values, nesting, is_optional=default is None)
        elif nesting.prefix + name in values:
            arguments[name] = values[nesting.prefix + name]
        elif name in nesting.inherit and name in values:
            arguments[name] = values[name]
    return arguments


def _assemble_class(
    name: str, hint: Hint, values: Mapping[str, Any], outer: Nested, *, is_optional: bool
) -> dict[str, Any]:
    """Make the argument with a class of options; none if the class is optional and has no values."""
    kind = hint.option_class
    if kind is None:
        return {}
    nested = _compose(hint.nested, outer)
    entries = flatten(kind, nested)
    missing = [entry for entry in entries if entry.is_required and entry.name not in values]
    if is_optional and missing:
        files = [entry for entry in entries if entry.name in values and entry.kind is Path]
        if files:
            raise InputError(
                f"{files[0].label}: annotations and boxes need the folder of their images; give {missing[0].label}."
            )
        return {}
    return {name: kind(**assemble(kind, values, nested))}


def flat_values(instance: Any, nested: Nested | None = None) -> dict[str, Any]:
    """Name → value of all options of an instance, as JSON values; None is omitted."""
    nesting = nested or Nested()
    values: dict[str, Any] = {}
    for name, hint, _ in members(type(instance)):
        value = getattr(instance, name)
        if name in nesting.without or value is None:
            continue
        if isinstance(hint.note, Option):
            values[nesting.prefix + name] = to_json_value(value, hint.note)
        elif isinstance(value, OptionClass):
            values |= flat_values(value, _compose(hint.nested, nesting))
    return values


def defaults(owner: Any) -> dict[str, Any]:
    """Name → default of all options that have one."""
    return {entry.name: entry.default for entry in flatten(owner) if entry.default is not MISSING}
