"""Files that a command writes: checked before it computes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixqsam.errors import OutputError
from mixqsam.files import number_paths
from mixqsam.options.fields import Entry


def check_written(entries: Sequence[Entry], values: Mapping[str, Any]) -> None:
    """Check that no file to write is a directory, an input of the command, or written twice.

    Args:
        entries: options of the command.
        values: name → value of its options.

    Raises:
        OutputError: a file cannot be written, or would replace an input.
    """
    paths = [(entry, path) for entry in entries for path in _paths(entry, values)]
    written = [(entry, path) for entry, path in paths if entry.option.is_written]
    others = {path.resolve(): entry.label for entry, path in paths if not entry.option.is_written}
    for entry, path in written:
        if path.is_dir():
            raise OutputError(f"{entry.label} {path} is a directory; name a file.")
        if path.resolve() in others:
            raise OutputError(
                f"{entry.label} {path} would replace what {others[path.resolve()]} names; choose another file."
            )
        others[path.resolve()] = entry.label


def _paths(entry: Entry, values: Mapping[str, Any]) -> list[Path]:
    """The files and folders that an option names."""
    value = values.get(entry.name, entry.default)
    named = [one for one in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(one, Path)]
    count = len(values.get(entry.option.numbered_by) or ())
    return [numbered for one in named for numbered in number_paths(one, max(1, count))]
