"""Classes of options as one flat list: what the command line, a configuration file and `run.json` share."""

from collections.abc import Mapping
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any

from mixqsam.errors import InputError
from mixqsam.options.fields import Entry, Hint, Nested, Option, members
from mixqsam.options.values import OptionClass, plain


def flatten(owner: Any, nested: Nested | None = None) -> list[Entry]:
    """All options of a class, or of a function that takes such classes, in the order of the fields.

    A name that two of the classes have is one option, described by the first.
    """
    how = nested or Nested()
    entries: list[Entry] = []
    for name, hint, default in members(owner):
        if name in how.without:
            continue
        if isinstance(hint.note, Option):
            entries.append(_place(hint.entry(name, default), how))
        elif hint.option_class is not None:
            inner = flatten(hint.option_class, replace(hint.nested, without=hint.nested.without + how.without))
            if default is None:
                # Nothing is required of a class that may be left out.
                inner = [replace(entry, default=None) if entry.is_required else entry for entry in inner]
            entries += [_place(entry, how) for entry in inner]
    return list({entry.name: entry for entry in reversed(entries)}.values())[::-1]


def _place(entry: Entry, nested: Nested) -> Entry:
    """An option where its class is nested in another."""
    flags = ("--" + (nested.prefix + entry.name).replace("_", "-"),) if nested.prefix else entry.option.flags
    return replace(
        entry,
        name=nested.prefix + entry.name,
        option=replace(entry.option, flags=flags, is_advanced=entry.option.is_advanced or nested.is_advanced),
        default=None if entry.name in nested.inherit else entry.default,
    )


def _within(inner: Nested, outer: Nested) -> Nested:
    """How a class stands in the flat list that stands so in the class around it."""
    return Nested(outer.prefix + inner.prefix, outer.without + inner.without, inner.inherit)


def assemble(owner: Any, values: Mapping[str, Any], nested: Nested | None = None) -> dict[str, Any]:
    """Arguments of a class or a function from the flat values that were given; what is not given is left out.

    Raises:
        InputError: a class that may be left out lacks what it needs, or a class refuses its values.
    """
    how = nested or Nested()
    arguments: dict[str, Any] = {}
    for name, hint, default in members(owner):
        if name in how.without:
            continue
        if not isinstance(hint.note, Option):
            arguments |= _assemble_class(name, hint, values, how, is_optional=default is None)
        elif how.prefix + name in values:
            arguments[name] = values[how.prefix + name]
        elif name in how.inherit and name in values:
            arguments[name] = values[name]
    return arguments


def _assemble_class(
    name: str, hint: Hint, values: Mapping[str, Any], outer: Nested, *, is_optional: bool
) -> dict[str, Any]:
    """The argument that holds a class of options; none where the class may be left out and nothing of it is given."""
    kind = hint.option_class
    if kind is None:
        return {}
    nested = _within(hint.nested, outer)
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
    """Name → value of all options of an instance, in the forms that JSON has; None is left out."""
    how = nested or Nested()
    values: dict[str, Any] = {}
    for name, hint, _ in members(type(instance)):
        value = getattr(instance, name)
        if name in how.without or value is None:
            continue
        if isinstance(hint.note, Option):
            values[how.prefix + name] = plain(value, hint.note)
        elif isinstance(value, OptionClass):
            values |= flat_values(value, _within(hint.nested, how))
    return values


def defaults(owner: Any) -> dict[str, Any]:
    """Name → default of all options that have one."""
    return {entry.name: entry.default for entry in flatten(owner) if entry.default is not MISSING}
