"""Convert and check the values of options."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mixqsam.errors import InputError
from mixqsam.options.fields import Entry, Option, members

# Maximum number of characters that an error quotes of a value.
_MAX_QUOTED = 60
_EXPECTED = {bool: "true or false", float: "a number", int: "a whole number", str: "a text", Path: "a path"}


class OptionClass:
    """Base of frozen classes whose fields are options; creating an instance checks its values."""

    __options__: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Convert and check all values.

        Raises:
            InputError: a value is not valid; the message names the field and the valid values.
            BudgetError: bits or budgets that cannot be understood.
        """
        for name, hint, _ in members(type(self)):
            value = getattr(self, name)
            if isinstance(hint.note, Option) and value is not None:
                object.__setattr__(self, name, convert(hint.entry(name), value, label=name))


def convert(entry: Entry, value: Any, *, label: str) -> Any:
    """Convert a value from the command line or a file to the option's type.

    Raises:
        InputError: the value is not valid; the message names `label` and the valid values.
        BudgetError: bits or budgets that cannot be understood.
    """
    parse = entry.option.parse
    if parse is not None and (entry.option.is_list or not entry.is_many):
        return parse(value, label)
    if not entry.is_many:
        return check(entry, value, label=label)
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()] if entry.option.is_list else [value]
    if parse is not None and isinstance(value, list | tuple):
        value = tuple(parse(item, label) for item in value)
    return check(entry, value, label=label)


def check(entry: Entry, value: Any, *, label: str) -> Any:
    """Check a value and return it; texts become paths for options that are paths.

    Raises:
        InputError: the value is not valid; the message names `label` and the valid values.
    """
    if not entry.is_many:
        return value if entry.option.parse is not None else _check_item(entry, value, label=label)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(f"{label} {quote(value)}: a list is expected.")
    if entry.option.parse is not None:
        return tuple(value)
    return tuple(_check_item(entry, item, label=label) for item in value)


def to_json_value(value: Any, option: Option) -> Any:
    """Convert a value to JSON; paths become absolute, so that they are valid in every folder."""
    if option.write is not None and (option.is_list or not isinstance(value, tuple | list)):
        return option.write(value)
    if isinstance(value, tuple | list):
        return [to_json_value(item, option) for item in value]
    return str(value.expanduser().absolute()) if isinstance(value, Path) else value


def quote(value: Any) -> str:
    """Quote a value for an error; a long one is truncated."""
    text = repr(value)
    return text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "…"


def _check_item(entry: Entry, value: Any, *, label: str) -> Any:
    if entry.kind is Path and isinstance(value, str):
        return Path(value)
    if not _fits(entry.kind, value):
        raise InputError(f"{label} {quote(value)}: {_EXPECTED[entry.kind]} is expected.")
    if entry.words and value not in entry.words:
        raise InputError(f"{label} {quote(value)} is unknown; choose {', '.join(entry.words)}.")
    lowest, highest = entry.option.minimum, entry.option.maximum
    if lowest is not None and value < lowest:
        raise InputError(f"{label} {value}: at least {lowest:g} is expected.")
    if highest is not None and value > highest:
        raise InputError(f"{label} {value}: at most {highest:g} is expected.")
    return int(value) if entry.kind is int else value


def _fits(kind: type, value: Any) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind in (int, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return is_number and (kind is float or value == int(value))
    return isinstance(value, kind)
