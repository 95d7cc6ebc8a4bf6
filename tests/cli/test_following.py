"""What a command suggests next can be pasted: it runs, with the options of the run, and makes the same model."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mixqsam.artifact.store import load_model
from mixqsam.cli.main import app
from mixqsam.pipeline.explore import Explorer
from tests.conftest import draw


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Most tests analyse the same model on the same pictures: once is enough."""
    return tmp_path_factory.mktemp("following")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXQSAM_CACHE", str(shared_cache))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for i in range(3):
        draw(folder / f"{i}.png", width=60, height=50, seed=i)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def following(result: Result) -> list[list[str]]:
    """The words of each suggested command."""
    assert result.exit_code == 0, result.output
    text = result.output.partition("\nNext\n")[2]
    return [shlex.split(line.strip().split("  ")[0]) for line in text.splitlines() if line.strip()]


def paste(words: list[str], **placeholders: object) -> Result:
    values = {name: str(value) for name, value in placeholders.items()}
    done = run(*[values.get(word, word) for word in words[1:]])
    assert done.exit_code == 0, (words, done.output)
    return done


def quantized(photos: Path, model: Path, *more: object) -> Result:
    options = ("--grid", 2, "-n", 2, "--eval-limit", 1, "--recipe", "omse", "--fisher-draws", 4)
    return run("quantize", "-m", model, "-i", photos, *options, *more)


def test_the_suggestions_of_quantize_evaluate_and_report_run(
    model_directory: Path, photos: Path, tmp_path: Path
) -> None:
    done = quantized(photos, model_directory, "-o", "my out", "--keep", "neck.*=8", "-b", "W4A8")
    evaluate, serve, export = following(done)
    assert evaluate[:3] == ["mixqsam", "evaluate", "my out"]
    assert evaluate[3:] == ["--images", str(photos), "--grid", "2"]
    assert serve == ["mixqsam", "serve", "my out", "--images", str(photos)]
    (report,) = following(paste(evaluate))
    assert following(paste(report))[0][:3] == ["mixqsam", "serve", "my out"]
    assert (tmp_path / "report.html").is_file()
    # The page is there now: the next suggestion names another.
    assert "report-2.html" in following(paste(evaluate))[0]
    pytest.importorskip("onnxruntime")
    predict, benchmark = following(paste(export))
    paste(predict, IMAGE=photos / "0.png", **{"x1,y1,x2,y2": "5,5,40,30"})
    assert benchmark == ["mixqsam", "benchmark", "my out"]
    assert "my out-onnx-2" in following(quantized(photos, model_directory, "-o", "my out", "--overwrite"))[2]


@pytest.mark.parametrize("budget", ["W4A8", "uniform:W5A4", "0.02 MB"])
def test_an_allocation_is_made_into_exactly_these_bits(
    model_directory: Path, photos: Path, tmp_path: Path, budget: str
) -> None:
    (tmp_path / "allocation.json").write_text("an older one")
    (tmp_path / "out").mkdir()
    draws = ("--fisher-draws", 2)
    analyzed = run(
        "analyze", "-m", model_directory, "-i", photos, "--grid", 2, "-n", 2, *draws, "-o", "my analysis.json"
    )
    (allocate,) = following(analyzed)
    assert allocate[-1] == "allocation-2.json"
    allocate[allocate.index("--output") :] = ["--output", "bits.json", "--keep", "neck.*=8", "--budget", budget]
    if budget.endswith("MB"):
        size = json.loads((tmp_path / "my analysis.json").read_text())["compact_bytes"]
        allocate[-1] = f"{size * 1.7 / 1e6:.3f} MB"
    (quantize,) = following(paste(allocate))
    assert "FOLDER" not in quantize
    assert quantize[quantize.index("--output") + 1] == "out-2"
    assert quantize[-2:] == ["--allocation", "bits.json"]
    done = paste(quantize)
    plan = json.loads((tmp_path / "bits.json").read_text())["plan"]
    manifest = load_model(tmp_path / "out-2")[1]
    assert {name: [b.weight, b.activation] for name, b in manifest.units.items()} == {
        name: [bits["weight"], bits["activation"]] for name, bits in plan.items()
    }
    assert "Bits of bits.json" in done.output
    assert ("mixed" in done.output) is not budget.startswith("uniform")
    # The record of the run repeats it, and the directory is a stored allocation, too.
    again = run("quantize", "--config", "out-2/run.json", "-o", "again")
    assert again.exit_code == 0, again.output
    third = run(*quantize[1:-1], "out-2", "-o", "third")
    assert third.exit_code == 0, third.output
    for name in ("again", "third"):
        assert (tmp_path / name / "model.safetensors").read_bytes() == (
            tmp_path / "out-2/model.safetensors"
        ).read_bytes()
    # A budget on the command line wins over the file's allocation.
    other = run("quantize", "--config", "out-2/run.json", "-o", "w8", "-b", "uniform:W8A8", "--json")
    assert json.loads(other.stdout)["run"]["models"]["uniform"]["bits"] == "W8A8"


def test_an_allocation_of_another_model_is_refused(model_directory: Path, photos: Path, tmp_path: Path) -> None:
    assert quantized(photos, model_directory, "-o", "out").exit_code == 0
    allocation = json.loads((tmp_path / "out/allocation.json").read_text())
    allocation["plan"].pop("vision_encoder.neck.conv1")
    (tmp_path / "less.json").write_text(json.dumps(allocation))
    done = quantized(photos, model_directory, "-o", "other", "--allocation", "less.json")
    assert done.exit_code == 2
    assert "it has no bits for vision_encoder.neck.conv1 (1 of " in " ".join(done.output.split())
    allocation["plan"] |= {
        "vision_encoder.neck.conv1": {"weight": 4, "activation": 4},
        "x": allocation["plan"].pop("vision_encoder.neck.conv2"),
    }
    (tmp_path / "less.json").write_text(json.dumps(allocation))
    assert (
        "has no bits for vision_encoder.neck.conv2"
        in quantized(photos, model_directory, "-o", "other", "--allocation", "less.json").output
    )


@pytest.mark.parametrize("utility", ["fisher", "linear"])
def test_the_pages_command_makes_the_model_that_it_shows(
    model_directory: Path, photos: Path, tmp_path: Path, utility: str
) -> None:
    more = ["--keep", "neck.*=8", "--candidates", "3-8", "--utility", utility, "--seed", 3, "-b", "W6A6"]
    assert quantized(photos, model_directory, "-o", "my out", *more).exit_code == 0
    explorer = Explorer(Path("my out"))
    solved = explorer.solve(size=explorer.size.now * 1.1, bitops=explorer.bitops.now * 1.2, tied=True)
    words = shlex.split(solved["command"])
    paste(words)
    made = json.loads((Path(words[-1]) / "allocation.json").read_text())
    assert (made["size"], made["bitops"]) == (solved["size"], solved["bitops"])
    assert made["plan"]["vision_encoder.neck.conv1"] == {"weight": 8, "activation": 8}
    # Its output is there now.
    assert shlex.split(explorer.solve(size=1e9, bitops=1e15, tied=False)["command"])[-1] != words[-1]
    assert (
        solved["command"]
        != explorer.solve(size=explorer.size.now * 1.1, bitops=explorer.bitops.now * 1.2, tied=True)["command"]
    )


def test_the_best_of_a_comparison_is_suggested_with_all_options(
    model_directory: Path, photos: Path, tmp_path: Path
) -> None:
    command = ["compare", "-m", model_directory, "-i", photos, "-n", 2, "--grid", 2, "-o", "comparison"]
    command += ["-r", "minmax", "-b", "uniform:W4A8", "--keep", "neck.*=8", "--eval-images", photos, "--eval-limit", 1]
    (quantize,) = following(run(*command))
    for words in (["--keep", "neck.*=8"], ["--eval-images", str(photos)], ["--budget", "uniform:W4A8"]):
        assert " ".join(words) in " ".join(quantize)
    paste(quantize)
    row = json.loads((tmp_path / "comparison/comparison.json").read_text())["rows"][0]
    made = json.loads((tmp_path / "out/run.json").read_text())["models"]["uniform"]
    assert (made["size"], made["mean_iou"]) == (row["size"], row["mean_iou"])


def test_a_recipe_of_parts_is_not_suggested(model_directory: Path, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('recipes = [{ observer = "minmax" }]\n')
    done = run(
        "compare", "--config", file, "-m", model_directory, "-i", photos, "-n", 1, "--grid", 1, "-b", "W4A4", "-o", "c"
    )
    assert done.exit_code == 0, done.output
    assert "Next" not in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--budget", "uniform:W4A4", "--tied"], 3, "uniform:W4A4 says the bits of all units, so --tied has no effect"),
        (["-b", "uniform:W4A4", "--utility", "linear"], 3, "so --utility has no effect"),
        (["-b", "uniform:W4A4", "--uniform"], 3, "so --uniform has no effect; remove it, or give a budget such"),
        (["-b", "uniform:W4A4", "--no-uniform"], 3, "so --no-uniform has no effect"),
        (["--allocation", "x.json", "--keep", "neck.*=8"], 3, "so --keep has no effect; remove one"),
        (["--allocation", "x.json", "-b", "W4A4"], 3, "so --budget has no effect"),
        (["--iterations", "9"], 2, "The recipe compensated does not reconstruct, so --iterations has no effect"),
        (["--recipe", "compensated", "--warmup", "0.1"], 2, "so --warmup has no effect"),
    ],
)
def test_options_without_effect_are_refused(arguments: list[str], code: int, words: str) -> None:
    done = run("quantize", "-i", "photos", "-o", "out", *arguments)
    assert done.exit_code == code, done.output
    assert words in " ".join(done.output.split())
