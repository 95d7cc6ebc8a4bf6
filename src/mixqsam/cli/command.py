"""Commands: read options and a configuration file, print a text or JSON, end with an exit code."""

import inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from mixqsam.cli.app import app
from mixqsam.cli.config import choose_settings, read_settings
from mixqsam.cli.conflicts import check_conflicts
from mixqsam.cli.console import err, run_guarded
from mixqsam.cli.deprecated import modernise
from mixqsam.cli.outcome import Outcome, print_outcome
from mixqsam.cli.parameters import gather, parameters, spell
from mixqsam.cli.usage import guard_usage
from mixqsam.cli.written import check_written
from mixqsam.options.fields import Entry, Option
from mixqsam.options.flat import assemble, flatten

Body = Callable[..., Outcome | None]
_SETTINGS, _FILE = "mixqsam.settings", "mixqsam.file"
_CONFIG = Entry("config", Path, (), False, Option("TOML file of options, or the run.json of a run to repeat."), None)
_JSON = Entry("json", bool, (), False, Option("Print the result as JSON, and nothing else, on standard output."), False)
_DEBUG = Entry("debug", bool, (), False, Option("Show the traceback of an error ($MIXQSAM_DEBUG does too)."), False)


@dataclass(frozen=True)
class Spec:
    """A command.

    Attributes:
        body: does the work.
        entries: options of the command.
        reads_config: whether it takes `--config`.
    """

    body: Body
    entries: tuple[Entry, ...]
    reads_config: bool


# Name → command.
COMMANDS: dict[str, Spec] = {}


def command(*, reads_config: bool = False) -> Callable[[Body], Body]:
    """Make a function a command: its parameters are options, or classes of options."""

    def register(body: Body) -> Body:
        name = body.__name__.replace("_", "-")
        spec = Spec(body, tuple(flatten(body)), reads_config)
        COMMANDS[name] = spec
        return body

    return register


def install(module: str, panel: str) -> None:
    """Give the commands of a module to typer; `panel` is their heading in the help."""
    for name, spec in COMMANDS.items():
        if spec.body.__module__ == module:
            register = app.command(name, cls=_Command, epilog=_write_epilog(name, spec), rich_help_panel=panel)
            register(_make_runner(name, spec))


def _write_epilog(name: str, spec: Spec) -> str | None:
    hidden = sum(entry.option.is_advanced for entry in spec.entries)
    return f"{hidden} more options: mixqsam {name} --help-all" if hidden else None


def _make_runner(name: str, spec: Spec) -> Callable[..., None]:
    """Make the function that typer calls with the values of the command line."""

    def run(context: typer.Context, *, json: bool, debug: bool, **raw: Any) -> None:
        def act() -> None:
            given = {name: value for name, value in raw.items() if _is_given(context, name)}
            settings, file = context.meta.get(_SETTINGS, {}), context.meta.get(_FILE, "")
            values = _with_given(gather(spec.entries, given, settings, file), {*given, *settings})
            check_conflicts(spec.entries, values, given=set(given))
            check_written(spec.entries, values)
            print_outcome(COMMANDS[name].body(**assemble(spec.body, values)), as_json=json)

        resumes = any(entry.name == "cache" for entry in spec.entries)
        code = run_guarded(act, debug=_is_debugging(debug), as_json=json, resumes=resumes)
        if code:
            raise typer.Exit(code)

    entries = [*spec.entries, *([_CONFIG] if spec.reads_config else []), _JSON, _DEBUG]
    signature = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    signature += parameters(entries)
    if any(entry.option.is_advanced for entry in spec.entries):
        signature.append(_HELP_ALL)
    run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
    run.__doc__, run.__name__ = spec.body.__doc__, spec.body.__name__
    return run


def _with_given(values: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """Tell a preset which options the user gave: these win, even where they are the defaults."""
    if "preset" in values:
        values["preset"] = replace(values["preset"], given=frozenset(given))
    return values


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _is_debugging(has_flag: bool) -> bool:
    return has_flag or bool(os.environ.get("MIXQSAM_DEBUG"))


def _show_all(context: typer.Context, has_flag: bool) -> None:
    if not has_flag or context.resilient_parsing:
        return
    for parameter in context.command.params:
        parameter.hidden = False  # type: ignore[attr-defined]
    context.command.epilog = None
    typer.echo(context.get_help())
    raise typer.Exit


_HELP_ALL = inspect.Parameter(
    "help_all",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, typer.Option("--help-all", help="Show all options and exit.", callback=_show_all, is_eager=True)
    ],
)


class _Command(TyperCommand):
    """Reads old spellings, and the configuration file before the options, so that its values count as given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line into the context's parameters."""
        name = self.name or ""
        words = args if ctx.resilient_parsing else modernise(name, args)
        path = None if ctx.resilient_parsing or not COMMANDS[name].reads_config else _find_config(words)
        if path is not None:
            debug = _is_debugging("--debug" in words)
            code = run_guarded(lambda: _read(ctx, name, path), debug=debug, as_json="--json" in words)
            if code:
                raise typer.Exit(code)
        return guard_usage(lambda: super(_Command, self).parse_args(ctx, words), words)


def _find_config(words: list[str]) -> Path | None:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--config" and following:
            return Path(following)
        if word.startswith("--config="):
            return Path(word.partition("=")[2])
    return None


def _read(context: typer.Context, name: str, path: Path) -> None:
    spec = COMMANDS[name]
    elsewhere = [entry for other in COMMANDS.values() if other.reads_config for entry in other.entries]
    settings, unused = choose_settings(read_settings(path), spec.entries, elsewhere, command=name, source=path)
    if unused:
        err.print(f"{path}: `mixqsam {name}` does not use {', '.join(unused)}.", style="dim", highlight=False)
    context.meta[_SETTINGS], context.meta[_FILE] = settings, str(path)
    # Typer refuses a command whose required options are missing; their values are taken from the settings.
    context.default_map = {
        entry.name: str(settings[entry.name]) for entry in spec.entries if _is_required(entry, settings)
    }


def _is_required(entry: Entry, settings: Mapping[str, Any]) -> bool:
    return entry.is_required and entry.name in settings


def format_command() -> str:
    """Format the command as the user gave it."""
    name = Path(sys.argv[0]).name
    return shlex.join(["mixqsam" if name == "__main__.py" else name, *sys.argv[1:]])


def line(name: str, values: Mapping[str, Any]) -> str:
    """Write a command for the clipboard, with the `values` of its options that differ from the defaults."""
    words: list[str] = []
    for entry in COMMANDS[name].entries:
        value = values.get(entry.name)
        if value is None or value in ([], ()) or _is_default(entry, value):
            continue
        words += spell(entry, value)
    return shlex.join(["mixqsam", name, *words])


def _is_default(entry: Entry, value: Any) -> bool:
    if entry.is_required or entry.default is None:
        return False
    write, default = entry.option.write, entry.default
    return value in (default, default if write is None or isinstance(default, str) else write(default))
