"""Files of detectors' boxes, by the detector's name where there are several; loads neither torch nor numpy."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixqsam.errors import InputError, shortened
from mixqsam.options.values import quote

# One file without a name, or name → file.
BoxFiles = Path | Mapping[str, Path]
# Names are headings of tables.
_NAME = re.compile(r"[^\W_][\w .+()-]{0,39}")
_RULE = "a name has at most 40 letters, digits, spaces and .+-()_, and begins with a letter or digit"


def parse_box_files(value: Any, label: str) -> BoxFiles:
    """Parse one file of boxes, or several as NAME=FILE.

    A text is NAME=FILE where no `/` stands before its first `=`, so `./a=b.json` is a file without a name.

    Args:
        value: a path, a text, a list of texts, or name → file.
        label: name of the option, for errors.

    Raises:
        InputError: a name is missing, not valid, or given twice, or the value is of another kind.
    """
    if isinstance(value, Path):
        return value
    if isinstance(value, Mapping):
        named = [(name, _check_file(file, label)) for name, file in value.items()]
    elif isinstance(value, str | list | tuple):
        named = [_split(item, label) for item in ([value] if isinstance(value, str) else value)]
    else:
        raise InputError(f"{label} {quote(value)}: a file is expected, or NAME=FILE for each of several.")
    if not named:
        raise InputError(f"{label} names no file; give one, or NAME=FILE for each of several.")
    if len(named) == 1 and named[0][0] is None:
        return named[0][1]
    return _collect(named, label)


def write_box_files(value: BoxFiles | str) -> str | list[str]:
    """Write what `parse_box_files` reads; paths become absolute."""
    if isinstance(value, Mapping):
        return [f"{name}={Path(file).expanduser().absolute()}" for name, file in value.items()]
    return str(Path(value).expanduser().absolute())


def _collect(named: list[tuple[str | None, Path]], label: str) -> dict[str, Path]:
    """Collect files by their names, which all must have."""
    files: dict[str, Path] = {}
    for name, file in named:
        if name is None:
            raise InputError(
                f"{label} {shortened(file)}: each of several files of boxes needs a name; write NAME={shortened(file)}."
            )
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(f"{label} {shortened(file)}: the name {quote(name)} is not valid; {_RULE}.")
        if name in files:
            raise InputError(
                f"{label}: {shortened(files[name])} and {shortened(file)} both have the name {name}; give every file "
                "another name."
            )
        files[name] = file
    return files


def _split(item: Any, label: str) -> tuple[str | None, Path]:
    """Split NAME=FILE; the name is None without one."""
    if isinstance(item, Path):
        return None, item
    if not isinstance(item, str):
        raise InputError(f"{label} {quote(item)}: a file is expected, or NAME=FILE for each of several.")
    name, equals, file = item.partition("=")
    if not equals or "/" in name:
        return None, _check_file(item, label)
    if not name.strip():
        raise InputError(f"{label} {shortened(item)}: the name before = is empty; write NAME=FILE, or the file alone.")
    if not file.strip():
        raise InputError(f"{label} {shortened(item)}: the file after = is missing; write NAME=FILE.")
    return name.strip(), Path(file)


def _check_file(file: Any, label: str) -> Path:
    if not isinstance(file, str | Path) or not str(file).strip():
        raise InputError(f"{label} {quote(file)}: a path is expected.")
    return Path(file)
