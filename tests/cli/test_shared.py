"""What all commands share: JSON, tracebacks, one paragraph of error, completion, silence in a pipe."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mixqsam.cli.command import COMMANDS as SPECS
from mixqsam.cli.main import app
from mixqsam.deployed.backends import BACKENDS
from mixqsam.options.names import RECIPE_NAMES
from mixqsam.quantization.recipes import RECIPES
from tests.forked import run_python

COMMANDS = [
    "demo", "quantize", "recipes", "compare", "analyze", "allocate", "detect", "evaluate", "evaluate-oriented",
    "evaluate-automatic", "evaluate-semantic", "report", "serve", "predict", "predict-automatic", "export",
    "benchmark", "push",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXQSAM_CACHE", str(tmp_path / "cache"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json_and_debug(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.output
    assert "--debug" in result.output


def test_the_list_of_commands_is_whole() -> None:
    output = run("--help").output
    assert all(f" {command} " in output for command in COMMANDS)
    assert len(app.registered_commands) == len(COMMANDS)


def test_json_is_all_that_is_printed(model_directory: Path, picture_folder: Path, tmp_path: Path) -> None:
    analysis, plan = tmp_path / "analysis.json", tmp_path / "plan.json"
    images = ["-m", model_directory, "-i", picture_folder, "--grid", 2]
    found = json.loads(run("analyze", *images, "-o", analysis, "--json").stdout)
    assert found["made"][0]["path"] == str(analysis)
    assert found["units"] == len(json.loads(analysis.read_text())["units"])
    found = json.loads(run("allocate", analysis, "-b", "W5A5", "-o", plan, "--json").stdout)
    assert found["allocation"] == json.loads(plan.read_text())
    float_only = ["evaluate", model_directory, "--reference", model_directory, "-i", picture_folder, "--grid", 2]
    found = json.loads(run(*float_only, "--json").stdout)
    assert found["models"]["float"]["images"] == 3
    picture = picture_folder / "a.png"
    found = json.loads(
        run("predict", picture, "-m", model_directory, "--box", "5,5,40,30", "-o", tmp_path / "m.png", "--json").stdout
    )
    assert 0 <= found["masks"][0]["pixels"] <= 64 * 40
    assert [one["name"] for one in json.loads(run("recipes", "--json").stdout)["recipes"]] == list(RECIPES)


def test_an_error_is_json_too_and_a_paragraph_for_people(tmp_path: Path) -> None:
    result = run("allocate", tmp_path / "none.json", "-o", tmp_path / "x.json", "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert (found["error"], found["exit_code"]) == ("ArtifactError", 2)
    assert found["message"] in " ".join(result.stderr.split())


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["allocate", tmp_path / "none.json", "-o", tmp_path / "x.json"]
    assert run(*arguments).exception.__class__ is SystemExit
    assert run(*arguments, "--debug").exception.__class__.__name__ == "ArtifactError"
    monkeypatch.setenv("MIXQSAM_DEBUG", "1")
    assert run(*arguments).exception.__class__.__name__ == "ArtifactError"


def test_a_fault_of_ours_is_a_paragraph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("x")

    monkeypatch.setitem(SPECS, "recipes", replace(SPECS["recipes"], body=broken))
    result = run("recipes")
    assert result.exit_code == 70
    assert "Internal error: KeyError: 'x'" in result.output
    assert "--debug" in result.output
    assert "Traceback" not in result.output


def test_what_is_next_ends_a_command() -> None:
    result = run("recipes")
    assert "Next" in result.output
    lines = [line for line in result.output.splitlines() if line.strip().startswith("mixqsam ")]
    assert len(lines) == 2
    assert all("  " in line.strip() for line in lines)


def complete(words: str, tmp_path: Path) -> set[str]:
    environment = {
        **os.environ,
        "_MIXQSAM_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    command = [str(Path(sys.executable).with_name("mixqsam"))]
    if not Path(command[0]).exists():
        pytest.skip("needs the installed command")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    return set(done.stdout.split())


def test_shells_complete_commands_options_and_names(tmp_path: Path) -> None:
    assert complete("mixqsam eval", tmp_path) == {
        "evaluate",
        "evaluate-oriented",
        "evaluate-automatic",
        "evaluate-semantic",
    }
    assert {"--recipe", "--budget", "--json"} <= complete("mixqsam quantize --", tmp_path)
    assert complete("mixqsam quantize --recipe ptq", tmp_path) == {"ptq4sam-s", "ptq4sam-l"}
    assert complete("mixqsam export out --format o", tmp_path) == set(BACKENDS)
    assert tuple(RECIPES) == RECIPE_NAMES


def test_completion_loads_no_torch() -> None:
    code = "import sys, mixqsam.cli.main; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_pipe_hears_no_progress(model_directory: Path, picture_folder: Path, tmp_path: Path) -> None:
    command = ["-m", "mixqsam", "analyze", "-m", str(model_directory), "-i", str(picture_folder)]
    command += ["--grid", "2", "--fisher-draws", "2", "--sensitivity-bits", "", "-o", str(tmp_path / "a.json")]
    done = run_python(command)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
