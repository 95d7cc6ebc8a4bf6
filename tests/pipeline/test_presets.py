"""The paper's configuration by name: what it sets, what wins over it, and where it is said."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mixqsam.allocation.budget import Budget
from mixqsam.cli.main import app
from mixqsam.errors import BudgetError, InputError
from mixqsam.pipeline.options import AllocationOptions, Options
from mixqsam.pipeline.presets import Preset, apply_preset


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXQSAM_CACHE", str(tmp_path / "cache"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def applied(budget: str, options: Options) -> AllocationOptions:
    return apply_preset(options, Budget.parse(budget)).allocation


@pytest.mark.parametrize(
    ("budget", "candidates"),
    [("W6A6", (4, 5, 6, 7, 8)), ("W4A4", (2, 3, 4, 5, 6)), ("W3A3,5MB", (2, 3, 4, 5)), ("iou>=0.9,W8A8", (6, 7, 8))],
)
def test_the_preset_is_the_papers_configuration(budget: str, candidates: tuple[int, ...]) -> None:
    found = applied(budget, Options(preset="mix-qsam"))
    assert (found.tied, found.utility, found.synergy) == (True, "linear", "proximity")
    assert found.synergy_weight == pytest.approx(0.1)
    assert found.candidates == candidates


def test_options_beside_the_preset_win() -> None:
    own = AllocationOptions(utility="exponential", candidates=(2, 8), keep=("neck.*=8",))
    found = applied("5MB", Options(preset="mix-qsam", allocation=own))
    assert (found.utility, found.candidates, found.keep) == ("exponential", (2, 8), ("neck.*=8",))
    assert found.tied
    # On the command line, a default that was written wins, too.
    written = Options(preset=Preset("mix-qsam", given=frozenset({"tied"})))
    assert not applied("W4A4", written).tied
    assert applied("W4A4", Options()) == AllocationOptions()


def test_what_the_preset_cannot_do_is_refused() -> None:
    for budget in ("5MB", "W6A4", "iou>=0.9", "W16A16"):
        with pytest.raises(BudgetError, match="give --candidates"):
            applied(budget, Options(preset="mix-qsam"))
    with pytest.raises(InputError, match=r"preset 'best' is unknown; choose mix-qsam\."):
        Options(preset="best")
    done = run("quantize", "-i", "x", "-o", "y", "--preset", "mix-qsam", "--budget", "uniform:W4A4")
    assert done.exit_code == 3
    assert "so --preset has no effect" in " ".join(done.output.split())


def test_a_model_by_the_preset_says_so_and_can_be_repeated(
    model_directory: Path, picture_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["quantize", "-m", model_directory, "-i", picture_folder, "--grid", 2, "--count", 2]
    command += ["--fisher-draws", 2, "--eval-limit", 1, "--recipe", "omse"]
    done = run(*command, "--no-pairs", "--preset", "mix-qsam", "--budget", "W4A4", "-o", out)
    assert done.exit_code == 0, done.output
    record = json.loads((out / "run.json").read_text())
    assert record["options"]["preset"] == "mix-qsam"
    assert (record["options"]["candidates"], record["options"]["tied"]) == ("2-6", True)
    assert "Preset: `mix-qsam`." in (out / "summary.md").read_text()
    assert "preset <code>mix-qsam</code>" in (out / "report.html").read_text()
    assert "the preset `mix-qsam`" in (out / "README.md").read_text()
    allocation = json.loads((out / "allocation.json").read_text())
    assert all(bits["weight"] == bits["activation"] in range(2, 7) for bits in allocation["plan"].values())
    assert allocation["objective"] == {
        "output": "bernoulli",
        "utility": "linear",
        "synergy": "proximity",
        "coupling": 0.1,
    }
    again = run("quantize", "--config", out / "run.json", "-o", tmp_path / "again")
    assert again.exit_code == 0, again.output
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "again")]
    assert weights[0] == weights[1]
    # The default of an option, written beside the preset, wins.
    free = run(*command, "--no-pairs", "--preset", "mix-qsam", "--free", "-o", tmp_path / "free")
    assert free.exit_code == 0, free.output
    assert json.loads((tmp_path / "free/run.json").read_text())["options"]["tied"] is False


def test_a_comparison_takes_candidates_around_each_budget(
    model_directory: Path, picture_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "comparison"
    command = ["compare", "-m", model_directory, "-i", picture_folder, "--grid", 2, "--count", 2, "--recipes", "minmax"]
    done = run(
        *command, "--no-pairs", "--preset", "mix-qsam", "-b", "W6A6", "-b", "W4A4", "--modes", "mixed", "-o", out
    )
    assert done.exit_code == 0, done.output
    found = json.loads((out / "comparison.json").read_text())
    assert found["settings"]["preset"] == "mix-qsam"
    assert found["settings"]["utility"] == "linear"
    sizes = {row["budget"]: row["size"] for row in found["rows"]}
    assert sizes["W4A4"] < sizes["W6A6"]
    assert "--preset mix-qsam" in " ".join(done.output.split())
