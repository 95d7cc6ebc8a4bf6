"""`--config`: options from a TOML file, or from the `run.json` of a finished run."""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mixqsam.cli.deprecated import renamed
from mixqsam.errors import InputError, shortened
from mixqsam.files import read_text
from mixqsam.options.fields import Entry
from mixqsam.options.values import quote

# Formats of other files of mixqsam.
_OTHER_FILES = {
    "mixqsam-analysis": "an analysis",
    "mixqsam-allocation": "an allocation",
    "mixqsam-comparison": "a comparison",
}
# These tables are values; all other tables are groups of options.
_VALUES = ("recipe", "boxes", "eval_boxes")


def read_settings(path: Path) -> dict[str, Any]:
    """Read the options of a file: name → value.

    Keys are the options' names; tables may group them under any name. `run.json` holds its options under `options`.

    Raises:
        InputError: the file cannot be read, is neither TOML nor JSON, or names an option twice.
    """
    content = _parse(path)
    if content.get("format") in _OTHER_FILES or "quantization_config" in content or "model_type" in content:
        what = _OTHER_FILES.get(str(content.get("format")), "the configuration of a model")
        raise InputError(f"{path} is {what}, not a file of options; give a TOML file, or the run.json of a run.")
    if content.get("format") == "mixqsam-run":
        content = content.get("options") or {}
        if not content:
            raise InputError(
                f"{path} was written by an earlier version of mixqsam and does not hold the run's options."
            )
    settings: dict[str, Any] = {}
    for key, value in content.items():
        is_group = isinstance(value, dict) and key.replace("-", "_") not in _VALUES
        for spelling, setting in value.items() if is_group else [(key, value)]:
            name = spelling.replace("-", "_")
            if name in settings:
                raise InputError(f"{path} names {name} twice.")
            if setting is not None:
                settings[name] = setting
    return settings


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; expected a TOML file of options, or the run.json of a run."
        ) from error
    except IsADirectoryError as error:
        run = path / "run.json"
        hint = f"give {run}" if run.is_file() else "give a TOML file in it, or the run.json of a run"
        raise InputError(f"{path} is a folder, not a file of options; {hint}.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a file of options: {shortened(error)}.") from error
    is_json = text.lstrip().startswith("{")
    try:
        content = json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not {'JSON' if is_json else 'TOML'}: {shortened(error)}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a table of options.")
    return content


def choose_settings(
    settings: Mapping[str, Any], entries: Sequence[Entry], elsewhere: Iterable[Entry], *, command: str, source: Path
) -> tuple[dict[str, Any], list[str]]:
    """Split settings into those of a command and the names of those that only other commands have.

    Args:
        settings: name → value.
        entries: the command's options.
        elsewhere: options of the other commands that read such files.
        command: name of the command, for old names of its options.
        source: the file, for errors.

    Raises:
        InputError: no command has an option of this name; the message has the nearest one.
    """
    known, others = _spellings(entries), _spellings(elsewhere)
    chosen: dict[str, Any] = {}
    unused: list[str] = []
    for name, value in settings.items():
        current = name if name in known else renamed(command, name, source=source)
        if current in known:
            chosen[known[current]] = value
        elif current in others:
            unused.append(name)
        else:
            nearest = get_close_matches(current, known, n=1, cutoff=0.75)
            hint = f"did you mean {nearest[0]}?" if nearest else "`--help-all` lists the options."
            raise InputError(f"{source}: the option {quote(name)} is unknown; {hint}")
    return chosen, unused


def _spellings(entries: Iterable[Entry]) -> dict[str, str]:
    """Every name that a file may use for an option → the option's name."""
    spellings: dict[str, str] = {}
    for entry in entries:
        long = [flag.strip("-").replace("-", "_") for flag in entry.flags[0].split("/")[:1] if flag.startswith("--")]
        spellings |= dict.fromkeys([entry.name, *long], entry.name)
    return spellings
