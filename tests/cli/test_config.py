"""`--config`: TOML files, and the run.json of a finished run, which repeats it bit by bit."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mixqsam.artifact.store import load_model
from mixqsam.cli.main import app
from tests.conftest import draw


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXQSAM_CACHE", str(tmp_path / "cache"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def words(result: Result) -> str:
    return " ".join(result.output.split())


def write(path: Path, text: str, *, mark: bool = False) -> Path:
    path.write_text(text, encoding="utf-8-sig" if mark else "utf-8")
    return path


def test_a_finished_run_is_repeated_bit_by_bit(
    model_directory: Path, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(6):
        draw(photos / f"{i}.png", width=60, height=50, seed=i)
    monkeypatch.chdir(tmp_path)
    asked = ["-i", "photos", "-m", model_directory, "--grid", 2, "-n", 4, "--recipe", "qdrop", "--iterations", 4]
    asked += ["--seed", 5, "--keep", "neck.*=8", "--keep", "*.av=W8A6", "--candidates", "3-8", "--tied", "-b", "W5A5"]
    asked += ["--synergy-weight", 0.3, "--prompts", 2, "--eval-images", picture_folder, "--eval-limit", 1]
    first = run("quantize", *asked, "-o", "first")
    assert first.exit_code == 0, first.output
    options = json.loads((tmp_path / "first/run.json").read_text())["options"]
    assert options["images"] == str(photos)
    assert options["eval_grid"] == 2
    # From another folder, without anything that was kept of the first run.
    monkeypatch.chdir("/")
    monkeypatch.setenv("MIXQSAM_CACHE", str(tmp_path / "other"))
    again = run("quantize", "--config", tmp_path / "first/run.json", "-o", tmp_path / "second")
    assert again.exit_code == 0, again.output
    for name in ("model.safetensors", "config.json", "analysis.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("first", "second")]
    assert runs[0]["options"] == runs[1]["options"]
    assert runs[0]["models"] == runs[1]["models"]


def test_toml_with_tables_a_byte_order_mark_and_a_recipe_of_ones_own(
    model_directory: Path, picture_folder: Path, tmp_path: Path
) -> None:
    file = write(
        tmp_path / "run.toml",
        f"""
        model = "{model_directory}"
        images = "{picture_folder}"
        grid = 2
        output = "{tmp_path / "out"}"
        eval-limit = 0
        [allocation]
        budget = "W4A4"
        keep = ["neck.*=8"]
        candidates = [2, 4, 8]
        [recipe]
        observer = "percentile"
        weight-observer = "minmax"
        steps = ["hybrid"]
        """,
        mark=True,
    )
    done = run("quantize", "--config", file)
    assert done.exit_code == 0, done.output
    _, manifest = load_model(tmp_path / "out")
    assert manifest.recipe == "custom+percentile+minmax+hybrid+nearest"
    assert {unit.weight for unit in manifest.units.values()} <= {2, 4, 8}
    assert manifest.units["vision_encoder.neck.conv1"].weight == 8
    config = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert config["units"]["vision_encoder.layers.0.mlp.lin2"]["quantizers"] == {"input": "hybrid"}
    # The command line wins, and the run that it names can be repeated.
    other = run("quantize", "--config", tmp_path / "out/run.json", "-o", tmp_path / "w6", "--budget", "uniform:W6A6")
    assert other.exit_code == 0, other.output
    _, manifest = load_model(tmp_path / "w6")
    assert manifest.recipe == "custom+percentile+minmax+hybrid+nearest"
    assert manifest.units["vision_encoder.neck.conv1"].weight == 8
    assert manifest.units["vision_encoder.neck.conv2"].weight == 8
    assert manifest.units["vision_encoder.layers.0.attn.qkv"].weight == 6


def test_one_file_serves_several_commands(model_directory: Path, picture_folder: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path / "run.toml",
        f'images = "{picture_folder}"\nmodel = "{model_directory}"\ngrid = 2\ncount = 2\nsensitivity_bits = "4"\n'
        'budget = "W5A5"\ntied = true\n',
    )
    analysis = tmp_path / "analysis.json"
    done = run("analyze", "--config", file, "-o", analysis)
    assert done.exit_code == 0, done.output
    assert "`mixqsam analyze` does not use budget, tied" in words(done)
    assert json.loads(analysis.read_text())["images"] == 2
    done = run("allocate", analysis, "--config", file, "-o", tmp_path / "bits.json")
    assert done.exit_code == 0, done.output
    allocation = json.loads((tmp_path / "bits.json").read_text())
    assert allocation["budget"]["text"] == "W5A5"
    assert all(unit["weight"] == unit["activation"] for unit in allocation["plan"].values())
    write(file, file.read_text() + f'analysis = "{analysis}"\noutput = "{tmp_path / "more.json"}"\nbudget = "W6A6"\n')
    assert "is not TOML" in words(run("allocate", "--config", file))
    write(file, file.read_text().replace('budget = "W5A5"\n', ""))
    done = run("allocate", "--config", file)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "more.json").read_text())["budget"]["text"] == "W6A6"


def test_a_comparison_reads_its_options_from_a_file(model_directory: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        draw(photos / f"{i}.png", width=60, height=50, seed=i)
    file = write(
        tmp_path / "compare.toml",
        f'images = "{photos}"\nmodel = "{model_directory}"\ngrid = 2\ncount = 2\noutput = "{tmp_path / "out"}"\n'
        'recipes = ["minmax", { observer = "percentile" }]\nbudgets = ["W6A6", "W4A4"]\nmodes = ["mixed"]\n',
    )
    done = run("compare", "--config", file, "-b", "W5A5")
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out/comparison.json").read_text())["rows"]
    assert [(row["recipe"], row["budget"], row["mode"]) for row in rows] == [
        ("minmax", "W5A5", "mixed"),
        ("custom+percentile+omse+nearest", "W5A5", "mixed"),
    ]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("bugdet = 'W4A4'", 2, "the option 'bugdet' is unknown; did you mean budget?"),
        ("[allocation]\nsynergy-weigth = 1", 2, "did you mean synergy_weight?"),
        ("zzz = 1", 2, "the option 'zzz' is unknown; `--help-all` lists the options"),
        ("count = 'many'", 2, "run.toml: count 'many': a whole number is expected"),
        ("count = 0", 2, "run.toml: count 0: at least 1 is expected"),
        ("utility = 'best'", 2, "run.toml: utility 'best' is unknown; choose linear"),
        ("keep = 8", 2, "run.toml: keep 8: a list is expected"),
        ("budget = 4", 3, "run.toml: budget 4: a text is expected, e.g. 'W4A4'"),
        ("budget = '4'", 3, "did you mean W4A4"),
        ("tied = 'yes'", 2, "run.toml: tied 'yes': true or false is expected"),
        ("[a]\ntied = true\n[b]\ntied = false", 2, "names tied twice"),
        ("[recipe]\nobserver = 'best'", 2, "recipe: observer 'best' is unknown; choose minmax"),
        ("[recipe]\nstep = ['hybrid']", 2, "recipe does not have 'step'; did you mean steps?"),
        ("budget = ", 2, "is not TOML"),
        ("{", 2, "is not JSON"),
        ('{"format": "mixqsam-run"}', 2, "does not hold the run's options"),
        ("x" * 10**6, 2, "is not TOML"),
    ],
)
def test_files_that_cannot_be_meant_are_refused_at_once(
    picture_folder: Path, tmp_path: Path, text: str, code: int, message: str
) -> None:
    file = write(tmp_path / "run.toml", text)
    done = run("quantize", "--config", file, "-i", picture_folder, "-o", tmp_path / "out", "--json")
    assert done.exit_code == code, done.output
    answer = json.loads(done.stdout)
    assert message in answer["message"]
    assert len(answer["message"]) < 600
    assert not (tmp_path / "out").exists()


def test_a_missing_file_or_option_is_named(tmp_path: Path, picture_folder: Path) -> None:
    done = run("quantize", "--config", tmp_path / "none.toml", "-i", picture_folder, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "none.toml does not exist; expected a TOML file" in words(done)
    done = run("quantize", f"--config={write(tmp_path / 'a.toml', 'grid = 2')}", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "Missing option '--images'" in words(done)
