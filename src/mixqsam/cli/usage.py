"""Errors in the words of a command line: near names only, and JSON where it is asked for."""

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

from mixqsam.cli.console import print_error

T = TypeVar("T")

# Typer comes with its own copy of click, or uses the installed one; this is the base of its errors of usage.
UsageError: type[Any] = typer.BadParameter.__mro__[1]
# Names with a lower similarity are other names.
_NEAR = 0.75


def is_near(name: str, other: str) -> bool:
    """Whether one name is likely to be a misspelling of the other."""
    return SequenceMatcher(None, name.strip("-"), other.strip("-")).ratio() >= _NEAR


def guard_usage(parse: Callable[[], T], words: Sequence[str]) -> T:
    """Parse words of the command line; with `--json` among them, an error is printed as JSON, too."""
    is_json = "--json" in words
    try:
        # The parser takes the words from the list.
        return parse()
    except UsageError as error:
        possibilities = getattr(error, "possibilities", None)
        if possibilities:
            name = str(getattr(error, "option_name", ""))
            error.possibilities = [other for other in possibilities if is_near(name, other)]
        if not is_json:
            raise
        code = print_error("UsageError", str(error.format_message()), code=int(error.exit_code), as_json=True)
        raise typer.Exit(code) from error


class Group(TyperGroup):
    """The commands; an unknown one is an error of usage."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command of the first word."""
        return guard_usage(lambda: super(Group, self).resolve_command(ctx, args), args)
