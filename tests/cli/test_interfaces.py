"""The command line and Python say the same: commands, options, defaults; what help shows; old spellings."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import mixqsam
from mixqsam.cli.command import COMMANDS, line
from mixqsam.cli.deprecated import OLD_FLAGS
from mixqsam.cli.main import app
from mixqsam.options.fields import Option, members
from mixqsam.options.flat import flatten

NAMES = sorted(COMMANDS)


def run(*arguments: object) -> Result:
    # Wide enough for the longest option.
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100"})


def python_options(function: Any) -> dict[str, Any]:
    """Name → default of a function's parameters, those of classes of options among them."""
    found: dict[str, Any] = {}
    for name, hint, default in members(function):
        if hint.option_class is None:
            found[name] = default
        else:
            nested = hint.nested
            inner = flatten(hint.option_class, nested)
            found |= {entry.name: entry.default for entry in inner}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_command_is_a_function_of_the_same_options(name: str) -> None:
    function = getattr(mixqsam, name.replace("-", "_"))
    options = {entry.name: entry.default for entry in COMMANDS[name].entries}
    found = python_options(function)
    # Progress and the address are shown on the terminal by commands, and given to a listener by functions.
    assert found.keys() - {"progress", "ready"} == options.keys()
    # In Python the result is a value and need not be written; a path's kind, and a missing model, may differ.
    same = options.keys() - {"output", "model"}
    for option in same:
        default, other = found[option], options[option]
        assert default == other or (option == "images" and None in (default, other)), option


def test_the_public_names_are_those_of_the_interface() -> None:
    from mixqsam import api

    assert mixqsam.__all__ == sorted(mixqsam.__all__)
    assert mixqsam.__all__ == api.__all__
    public = {name for name, value in vars(api).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(api.__all__)
    for name in api.__all__:
        assert getattr(mixqsam, name) is getattr(api, name), name
        assert getattr(mixqsam, name).__doc__, name
    assert set(dir(mixqsam)) == {*api.__all__, "__version__"}
    assert (Path(mixqsam.__file__).parent / "py.typed").is_file()


def test_errors_and_their_codes_are_public() -> None:
    from mixqsam import errors

    kinds = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert kinds <= set(mixqsam.__all__)


def test_the_main_command_shows_few_options_and_says_where_the_others_are() -> None:
    short, whole = run("quantize", "--help").output, run("quantize", "--help-all").output
    shown = {found[1] for found in re.finditer(r"^│ [* ]*(--[\w-]+)", short, flags=re.MULTILINE)}
    assert 10 <= len(shown) <= 15
    assert {"--images", "--output", "--model", "--budget", "--config", "--help", "--help-all"} <= shown
    assert "more options: mixqsam quantize --help-all" in " ".join(short.split())
    for entry in COMMANDS["quantize"].entries:
        flag = entry.flags[0].split("/")[0]
        assert flag in whole, flag
        assert (flag in shown) is not entry.option.is_advanced, flag
    assert "--eval-annotations" in whole
    assert "--seed" in whole
    assert "Random seed." in whole


def test_commands_on_images_can_skip_missing_ones_and_those_that_draw_have_a_seed() -> None:
    names = {name: {entry.name for entry in spec.entries} for name, spec in COMMANDS.items()}
    with_annotations = {name for name, known in names.items() if "annotations" in known}
    assert with_annotations == {name for name, known in names.items() if "skip_missing" in known}
    assert {"quantize", "compare", "analyze", "detect", "evaluate", "evaluate-automatic", "report"} <= with_annotations
    assert {name for name, known in names.items() if "seed" in known} == {"quantize", "compare", "analyze"}


def test_brackets_stay_in_the_help() -> None:
    assert "an image [height, width, 3] of 0 … 255" in " ".join(
        run("export", "--help").output.replace("│", " ").split()
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_option_stands_in_the_help(name: str) -> None:
    has_more = any(entry.option.is_advanced for entry in COMMANDS[name].entries)
    done = run(name, "--help-all" if has_more else "--help")
    assert done.exit_code == 0, done.output
    for entry in COMMANDS[name].entries:
        text = entry.name.upper() if entry.option.is_argument else entry.flags[0].split("/")[0]
        assert text in done.output or entry.name in done.output, text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "4"], "did you mean W4A4"),
        (["--budget", "w4"], "did you mean W4A4?"),
        (["--utility", "best"], "choose linear, exponential, measured"),
        (["--recipe", "best"], "choose minmax"),
        (["--keep", "neck"], "write PATTERN=BITS"),
        (["--candidates", "9"], "go from 2 to 8"),
        (["--bugdet", "W4A4"], "--budget"),
    ],
)
def test_typing_errors_are_answered_without_torch(tmp_path: Path, arguments: list[str], words: str) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom mixqsam.cli.main import app\n"
        f"done = CliRunner().invoke(app, ['quantize', '-i', 'x', '-o', 'y', *{arguments!r}])\n"
        "assert done.exit_code in (2, 3), done.output\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "print(done.output)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert words in " ".join(done.stdout.split())


def test_old_spellings_work_with_a_warning(tmp_path: Path) -> None:
    for (name, old), new in OLD_FLAGS.items():
        commands = [name] if name else [c for c in NAMES if any(new in e.flags for e in COMMANDS[c].entries)]
        assert commands
        for command in commands:
            assert any(new in entry.flags for entry in COMMANDS[command].entries), (command, new)
            done = run(command, f"{old}=1", "--help")
            assert done.exit_code == 0, done.output
            assert f"Warning: {old} is now {new}" in " ".join(done.stderr.split())
    # What follows -- is not an option, and other commands keep an option of that name.
    assert "Warning" not in run("evaluate", "--limit", "1", "--help").stderr
    file = tmp_path / "a.toml"
    file.write_text("lambda = 0.5\n")
    refused = run("allocate", "none.json", "--config", file, "-o", tmp_path / "x.json")
    assert "none.json does not exist" in " ".join(refused.output.split())


def test_a_command_can_be_spelled_and_read_again() -> None:
    text = line(
        "quantize",
        {
            "images": "my photos",
            "output": "out",
            "budget": "50 MB",
            "keep": ["neck.*=8", "*.av=W8A8"],
            "tied": True,
            "pairs": False,
            "synergy_weight": 0.0,
            "candidates": "2-8",
            "recipe": "compensated",
            "unknown": 3,
        },
    )
    assert text == (
        "mixqsam quantize --images 'my photos' --output out --budget '50 MB' --no-pairs --tied "
        "--candidates 2-8 --keep 'neck.*=8' --keep '*.av=W8A8'"
    )
    assert line("evaluate", {"models": ["a b", "c"], "images": "x"}) == "mixqsam evaluate 'a b' c --images x"
    assert (
        line("benchmark", {"model": "m", "backends": ["torch", "onnx"]}) == "mixqsam benchmark m --backends torch,onnx"
    )


def test_options_of_no_class_are_options() -> None:
    for spec in COMMANDS.values():
        for entry in spec.entries:
            assert isinstance(entry.option, Option)
            assert entry.option.help.endswith("."), (entry.name, entry.option.help)
