"""Annotations of fields: `Option` for a value, `Nested` for a nested class of options."""

import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Option:
    """Description of an option.

    Attributes:
        help: one sentence.
        flags: spellings on the command line; empty for `--` and the field's name.
        panel: heading under which the help lists it.
        minimum, maximum: of a number.
        is_advanced: only `--help-all` lists it.
        is_argument: a positional argument on the command line.
        is_list: several values are one text, separated by commas; otherwise the option is repeated.
        is_written: a file that the command writes.
        numbered_by: name of the option each of whose values gets a numbered file, where it has several.
        is_repeated: the option may be repeated, and `parse` reads the list of its texts.
        parse: makes the value from text and label, if it is not a number, a word or a path.
        write: turns such a value into the text or list that `parse` reads.
        default_help: the default in words, if the value does not explain it.
        complete: completes typed text in a shell.
    """

    help: str
    flags: tuple[str, ...] = ()
    panel: str = ""
    minimum: float | None = None
    maximum: float | None = None
    is_advanced: bool = False
    is_argument: bool = False
    is_list: bool = False
    is_written: bool = False
    numbered_by: str = ""
    is_repeated: bool = False
    parse: Callable[[Any, str], Any] | None = None
    write: Callable[[Any], Any] | None = None
    default_help: str = ""
    complete: Callable[[str], list[str]] | None = None


@dataclass(frozen=True)
class Nested:
    """How a class of options is nested in another one.

    Attributes:
        prefix: prefix of the nested names.
        without: fields without a meaning there, which are omitted.
        inherit: fields that by default take the value of the option of the same name without prefix.
        is_advanced: only `--help-all` lists them.
        purpose: begins the help of the nested options, which else reads as that of options without prefix.
    """

    prefix: str = ""
    without: tuple[str, ...] = ()
    inherit: tuple[str, ...] = ()
    is_advanced: bool = False
    purpose: str = ""


@dataclass(frozen=True)
class Entry:
    """One option of a flat list.

    Attributes:
        name: unique Python name.
        kind: bool, int, float, str or Path.
        words: allowed texts; empty for any.
        is_many: whether it holds several values.
        option: description for users.
        default: default value; `MISSING` for a required option.
    """

    name: str
    kind: type
    words: tuple[str, ...]
    is_many: bool
    option: Option
    default: Any = MISSING

    @property
    def is_required(self) -> bool:
        """Whether the option needs a value."""
        return self.default is MISSING

    @property
    def flags(self) -> tuple[str, ...]:
        """Spellings on the command line."""
        return self.option.flags or ("--" + self.name.replace("_", "-"),)

    @property
    def label(self) -> str:
        """Name of the option in errors of the command line."""
        return self.name.upper() if self.option.is_argument else self.flags[0].split("/")[0]


@dataclass(frozen=True)
class Hint:
    """A parsed annotation.

    Attributes:
        kind: the type, without None and metadata.
        note: the `Option` or `Nested` beside it.
    """

    kind: Any
    note: Option | Nested | None

    @property
    def nested(self) -> Nested:
        """How the class of options is nested here."""
        return self.note if isinstance(self.note, Nested) else Nested()

    @property
    def option_class(self) -> type | None:
        """The class of options in the field: the first one of a union, or None."""
        kinds = get_args(self.kind) if get_origin(self.kind) is Union else (self.kind,)
        return next((kind for kind in kinds if isinstance(kind, type) and hasattr(kind, "__options__")), None)

    def entry(self, name: str, default: Any = MISSING) -> Entry:
        """Make the entry of a field that holds a value.

        Raises:
            TypeError: the field is not annotated with an `Option`.
        """
        if not isinstance(self.note, Option):
            raise TypeError(f"the field {name} is not an option")
        kind, is_many = self.kind, False
        if get_origin(kind) is Union:
            kind = get_args(kind)[0]
        if get_origin(kind) in (tuple, Sequence):
            kind, is_many = get_args(kind)[0], True
        words = tuple(get_args(kind)) if get_origin(kind) is Literal else ()
        return Entry(name, kind if kind in (bool, int, float, Path) else str, words, is_many, self.note, default)


def members(owner: Any) -> tuple[tuple[str, Hint, Any], ...]:
    """Name, annotation and default of the fields of a class, or of the parameters of a function."""
    return _members(owner)


@lru_cache(maxsize=256)
def _members(owner: Any) -> tuple[tuple[str, Hint, Any], ...]:
    hints = get_type_hints(owner, include_extras=True)
    if is_dataclass(owner):
        return tuple((field.name, hint_of(hints[field.name]), _default(field)) for field in fields(owner))
    parameters = inspect.signature(owner).parameters.values()
    return tuple(
        (
            parameter.name,
            hint_of(hints[parameter.name]),
            MISSING if parameter.default is inspect.Parameter.empty else parameter.default,
        )
        for parameter in parameters
    )


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def hint_of(annotation: Any) -> Hint:
    """Parse an annotation."""
    note = None
    if get_origin(annotation) is Annotated:
        annotation, *notes = get_args(annotation)
        note = next((metadata for metadata in notes if isinstance(metadata, Option | Nested)), None)
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [hint_of(part) for part in get_args(annotation) if part is not type(None)]
        note = note or next((part.note for part in parts if part.note is not None), None)
        kinds = tuple(part.kind for part in parts)
        annotation = kinds[0] if len(kinds) == 1 else Union[kinds]  # noqa: UP007  (its parts are values)
    return Hint(annotation, note)
