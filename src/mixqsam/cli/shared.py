"""What every command can do: answer in JSON, show a traceback, end in one paragraph and an exit code."""

import inspect
import os
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from mixqsam.cli.console import guarded

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error ($MIXQSAM_DEBUG does too).")]
_OWN = {"as_json": _Json, "debug": _Debug}


def shared(command: Callable[..., Any]) -> Callable[..., None]:
    """A command with `--json` and `--debug`; it returns its outcome, which is told here, and so are errors of ours."""

    @wraps(command)
    def run(*, as_json: bool, debug: bool, **given: Any) -> None:
        def act() -> None:
            from mixqsam.cli.outcome import tell

            tell(command(**given), as_json=as_json)

        code = guarded(act, debug=debug or bool(os.environ.get("MIXQSAM_DEBUG")), as_json=as_json)
        if code:
            raise typer.Exit(code)

    run.__signature__ = _with_own(inspect.signature(command))  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, **_OWN, "return": None}
    return run


def _with_own(signature: inspect.Signature) -> inspect.Signature:
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in _OWN.items()
    ]
    return signature.replace(parameters=[*signature.parameters.values(), *own], return_annotation=None)


def spoken() -> str:
    """The command as the user gave it."""
    name = Path(sys.argv[0]).name
    return shlex.join(["mixqsam" if name == "__main__.py" else name, *sys.argv[1:]])
