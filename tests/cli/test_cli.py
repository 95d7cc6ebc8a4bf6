import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import typer.core
import typer.main
from rich.markup import render
from typer.testing import CliRunner, Result

from mixqsam.allocation.budget import Budget
from mixqsam.artifact.store import load_model
from mixqsam.cli.main import app
from mixqsam.data.images import open_image
from mixqsam.errors import BudgetError
from mixqsam.measurements import Analysis
from mixqsam.options.bit_widths import parse_candidates, parse_measured_bits
from tests.conftest import draw
from tests.forked import Forked


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIXQSAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def quantize(model: Path, images: Path, output: Path, *more: object) -> Result:
    """By the quickest recipe and few draws, where a test names none."""
    quick: tuple[str, ...] = () if "--recipe" in more else ("--recipe", "omse")
    quick += () if "--fisher-draws" in more else ("--fisher-draws", "4")
    where = ("-m", model, "-i", images, "-o", output)
    return run("quantize", *where, "--grid", 2, "--sensitivity-bits", "2,8", *quick, *more)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != "cache")


def test_help_names_every_command_and_loads_no_torch() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nimport mixqsam\nfrom mixqsam.cli.main import app\n"
        "text = CliRunner().invoke(app, ['--help']).output\n"
        "names = 'analyze allocate quantize compare recipes evaluate predict export benchmark demo'.split()\n"
        "assert all(name in text for name in names), text\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_needs_no_command() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith("mixqsam ")
    assert run("fly").exit_code == 2


COMMANDS: dict[str, typer.core.TyperCommand] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_and_its_options(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    result = run(command, "--help")
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert f"{command} [OPTIONS]" in text
    purpose = (COMMANDS[command].help or "").split("\n\n")[0]
    assert len(purpose) > 20
    assert " ".join(purpose.split()) in text
    options = [one for one in COMMANDS[command].params if isinstance(one, typer.core.TyperOption) and not one.hidden]
    assert options
    for option in options:
        assert option.opts[0] in text
        assert len(option.help or "") > 5, option.opts
        # Help is written in rich's markup, in which brackets are escaped.
        assert " ".join(render(option.help or "").plain.split()) in text, option.opts


def test_the_main_job_then_evaluation_and_prediction(
    model_directory: Path, picture_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = quantize(model_directory, picture_folder, out, "--budget", "W4A4", "--keep", "neck.*=8")
    assert result.exit_code == 0, result.output
    assert "proven optimal" in result.output
    names = {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "analysis.json",
        "allocation.json",
        "summary.md",
        "units.csv",
        "report.html",
        "run.json",
        "examples",
    }
    assert {p.name for p in out.iterdir()} == names
    _, manifest = load_model(out)
    assert manifest.units["vision_encoder.neck.conv1"].weight == 8
    allocation = json.loads((out / "allocation.json").read_text())
    assert allocation["size"] <= allocation["budget"]["size"]
    summary = (out / "summary.md").read_text()
    for words in ("Budget: `W4A4`", "Proven optimal", " + kept | "):
        assert words in summary
    assert len(summary.splitlines()) < 60
    assert "vision_encoder.neck.conv1,8,8," in (out / "units.csv").read_text()

    result = run("evaluate", out, "-i", picture_folder, "--grid", 2, "-o", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) == {"float", str(out)}
    assert 0 < report[str(out)]["fidelity"]["mean_iou"] <= 1
    assert report["float"]["prompts"] == 12

    image = picture_folder / "a.png"
    result = run(
        "predict", image, "-m", out, "--box", "5,5,40,30", "-o", tmp_path / "m.png", "--overlay", tmp_path / "o.png"
    )
    assert result.exit_code == 0, result.output
    mask = np.asarray(open_image(tmp_path / "m.png").convert("L"))
    assert mask.shape == (40, 64)
    assert set(np.unique(mask)) <= {0, 255}
    assert open_image(tmp_path / "o.png").size == (64, 40)
    result = run("predict", image, "-m", out, "--point", "20,20", "--point", "1,1,0", "-o", tmp_path / "m.png")
    assert result.exit_code == 0, result.output


def test_analyze_once_allocate_often(model_directory: Path, picture_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "analysis.json"
    where = ("-m", model_directory, "-i", picture_folder, "-o", file)
    result = run("analyze", *where, "--grid", 2, "--sensitivity-bits", "2,4", "--fisher-draws", 4)
    assert result.exit_code == 0, result.output
    Analysis.from_json(json.loads(file.read_text()), source="x")
    sizes = []
    for more in (
        ["--budget", "W4A4"],
        ["--budget", "W4A4", "--free"],
        ["--budget", "uniform:W5A5"],
        ["--budget", "0.8x", "--utility", "linear", "--synergy-weight", "1", "--synergy", "interaction"],
    ):
        result = run("allocate", file, "-o", tmp_path / "a.json", *more)
        assert result.exit_code == 0, result.output
        sizes.append(json.loads((tmp_path / "a.json").read_text())["size"])
    assert len(set(sizes)) > 1
    result = run("allocate", file, "-o", tmp_path / "b.json", "--budget", "10B")
    assert result.exit_code == 3
    assert "smallest feasible budget" in " ".join(result.output.split())
    assert not (tmp_path / "b.json").exists()


def test_an_output_is_not_overwritten_unasked(model_directory: Path, picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert quantize(model_directory, picture_folder, out).exit_code == 0
    first = (out / "model.safetensors").read_bytes()
    again = quantize(model_directory, picture_folder, out)
    assert again.exit_code == 4
    assert "--overwrite" in again.output
    assert quantize(model_directory, picture_folder, out, "--overwrite").exit_code == 0
    assert (out / "model.safetensors").read_bytes() == first
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("x")
    result = quantize(model_directory, picture_folder, foreign, "--overwrite")
    assert result.exit_code == 4
    assert (foreign / "mine.txt").exists()
    assert leftovers(tmp_path) == ["out", "photos"]


@pytest.fixture
def bad_places(tmp_path: Path) -> Path:
    """A folder with an empty file, an empty folder, a broken picture, and a box outside its picture."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/x.png").write_text("x")
    draw(tmp_path / "one.png", width=40, height=30, seed=1)
    outside = {
        "images": [{"id": 7, "file_name": "one.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [90, 5, 10, 12]}],
    }
    (tmp_path / "outside.json").write_text(json.dumps(outside))
    return tmp_path


# In the arguments, PICTURES is a folder of good pictures and HERE the folder of `bad_places`.
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param("-m sam-nowhere -i PICTURES", 2, "Unknown model", id="model"),
        pytest.param("-i HERE/empty", 2, "holds no images", id="empty folder"),
        pytest.param("-i HERE/broken", 2, "None of the images can be read", id="broken image"),
        pytest.param("-i HERE --annotations HERE/empty.json", 2, "is empty", id="empty annotations"),
        pytest.param("-i HERE --annotations HERE/outside.json", 2, "No image has a box", id="box outside"),
        pytest.param("-i PICTURES --budget W9A9", 3, "bit-widths go from 2 to 8", id="bits"),
        pytest.param("-i PICTURES --budget size=1kB", 3, "smallest feasible budget", id="budget too small"),
        pytest.param("-i PICTURES --keep nothing=8", 3, "no unit matches", id="unknown unit"),
        pytest.param(
            "-i PICTURES --utility measured --sensitivity-bits=", 3, "needs --sensitivity-bits", id="no sensitivity"
        ),
        pytest.param("-i PICTURES --recipe best", 2, "choose minmax, percentile, omse, adaround", id="recipe"),
        pytest.param(
            "-i PICTURES --recipe qdrop", 2, "qdrop needs at least 4 calibration images, there are 3", id="few images"
        ),
        pytest.param("-i PICTURES --device cuda:77", 2, "'cuda:77' cannot be used here", id="device"),
        pytest.param("-i PICTURES --boxes HERE/empty.json", 2, "is empty", id="boxes alone"),
    ],
)
def test_bad_input_is_one_clear_paragraph(
    model_directory: Path, picture_folder: Path, bad_places: Path, arguments: str, code: int, words: str
) -> None:
    given = [a.replace("PICTURES", str(picture_folder)).replace("HERE", str(bad_places)) for a in arguments.split()]
    model = [] if "-m" in given else ["-m", model_directory]
    before = leftovers(bad_places)
    result = run("quantize", "--sensitivity-bits", "4", *model, *given, "-o", bad_places / "out", "--grid", 2)
    text = " ".join(result.output.split())
    assert result.exit_code == code, text
    assert words in text
    assert "Traceback" not in text
    assert leftovers(bad_places) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--box"),
        (["--box", "1,2,3"], "x1,y1,x2,y2"),
        (["--box", "500,500,600,600"], "no area inside"),
        (["--point", "999,5"], "outside the image"),
        (["--point", "5,5,7"], "label is 1"),
        (["--point", "a,b"], "x,y or x,y,label"),
        (["--box", "1,2,30,30", "--point", "5,5"], "not both"),
    ],
)
def test_bad_prompts(
    model_directory: Path, picture_folder: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    result = run("predict", picture_folder / "a.png", "-m", model_directory, "-o", tmp_path / "m.png", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "m.png").exists()


def test_a_full_disk_leaves_nothing_half_written(model_directory: Path, picture_folder: Path, tmp_path: Path) -> None:
    # A limit on file sizes fails a write in its middle, as a full disk does.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        result = quantize(model_directory, picture_folder, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.exit_code == 4
    assert "Nothing was left half-written" in " ".join(result.output.split())
    assert leftovers(tmp_path) == []
    assert quantize(model_directory, picture_folder, tmp_path / "out").exit_code == 0


def test_ctrl_c_keeps_finished_stages_and_the_next_run_goes_on(
    model_directory: Path, tmp_path: Path, own_cache: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(6):
        draw(images / f"{i:02}.png", width=60, height=50, seed=i)
    arguments = ["quantize", "-m", str(model_directory), "-i", str(images), "-o", str(tmp_path / "out")]
    # Many draws, so that much is left after two images.
    arguments += ["--fisher-draws", "30", "--eval-limit", "0", "--recipe", "omse"]
    process = Forked(["-m", "mixqsam", *arguments])
    deadline = time.monotonic() + 120
    while len(list(own_cache.glob("fisher-*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Finished stages are cached" in errors
    assert leftovers(tmp_path) == ["images"]
    kept = {p: p.stat().st_mtime_ns for p in own_cache.glob("*.json")}
    assert any(p.name.startswith("fisher-") for p in kept)
    assert run(*arguments).exit_code == 0
    assert (tmp_path / "out/model.safetensors").exists()
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_a_detectors_boxes_are_evaluated(detector_directory: Path, picture_folder: Path, tmp_path: Path) -> None:
    instance = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 9, 20, 20], "area": 400, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 40}],
        "annotations": [{**instance, "segmentation": [[9, 9, 29, 9, 29, 29, 9, 29]]}],
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "hot dog"}],
    }
    annotations, boxes = tmp_path / "instances.json", tmp_path / "boxes.json"
    annotations.write_text(json.dumps(content))
    where = ["-i", picture_folder, "--annotations", annotations]
    found = run("detect", "--detector", detector_directory, *where, "-o", boxes, "--top", 3)
    assert found.exit_code == 0, found.output
    assert "3 boxes on 1 images" in " ".join(found.output.split())
    done = run("evaluate", "sam-tiny", *where, "--boxes", boxes, "-o", tmp_path / "scores.json", "--best-of-three")
    assert done.exit_code == 0, done.output
    scores = json.loads((tmp_path / "scores.json").read_text())["float"]
    assert (scores["prompts"], scores["truth_iou"]) == (3, None)
    assert 0 <= scores["coco"]["ap"] <= 100
    refused = run("detect", "--detector", tmp_path, *where, "-o", tmp_path / "other.json")
    assert refused.exit_code == 2
    assert "cannot be loaded as a detector" in " ".join(refused.output.split())


def test_a_killed_reconstruction_goes_on_after_its_last_finished_block(model_directory: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(4):
        draw(images / f"{i}.png", width=60, height=50, seed=i)
    base = ["quantize", "-m", str(model_directory), "-i", str(images), "--fisher-draws", "4"]
    base += ["--recipe", "qdrop", "--iterations", "40", "--eval-limit", "0", "-o"]
    arguments = [*base, str(tmp_path / "out"), "--cache", str(tmp_path / "killed")]
    process = Forked(["-m", "mixqsam", *arguments])
    pattern, deadline = "reconstruction-*/*.safetensors", time.monotonic() + 120
    while len(list((tmp_path / "killed").glob(pattern))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob(pattern)}
    assert 2 <= len(kept) < 6
    assert not (tmp_path / "out").exists()
    assert run(*arguments).exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert run(*base, tmp_path / "calm", "--cache", tmp_path / "calm-cache").exit_code == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "calm")]
    assert weights[0] == weights[1]


def test_a_hub_id_loads_from_the_hubs_cache(model_directory: Path, picture_folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub/models--someone--small-sam/snapshots/0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(model_directory, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text(snapshot.name)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mixqsam", "predict", str(picture_folder / "a.png"), "--box", "5,5,40,30"]
    command += ["-o", str(tmp_path / "mask.png"), "--model"]
    found = subprocess.run(
        [*command, "someone/small-sam"], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "mask.png").exists()
    unknown = subprocess.run([*command, "someone/else"], env=environment, capture_output=True, text=True, check=False)
    assert unknown.returncode == 2
    assert "someone/else cannot be loaded as a SAM" in " ".join(unknown.stderr.split())


def test_two_processes_do_not_work_on_the_same_stage(tmp_path: Path) -> None:
    from mixqsam.errors import OutputError
    from mixqsam.files import Cache

    first, second = Cache(tmp_path), Cache(tmp_path)
    with (
        first.lock("analysis", "k"),
        pytest.raises(OutputError, match="Another mixqsam process"),
        second.lock("analysis", "k"),
    ):
        pass
    with second.lock("analysis", "k"):
        pass


@pytest.mark.parametrize(("patient", "held"), [(False, 0.3), (True, 2.5)])
def test_a_stage_that_is_held_for_a_moment_is_waited_for(tmp_path: Path, patient: bool, held: float) -> None:
    from mixqsam.files import Cache

    def hold() -> None:
        with Cache(tmp_path).lock("analysis", "k"):
            taken.set()
            time.sleep(held)
            done.set()

    taken, done, holder = threading.Event(), threading.Event(), threading.Thread(target=hold)
    holder.start()
    assert taken.wait(timeout=10)
    with Cache(tmp_path, wait_for_locks=patient).lock("analysis", "k"):
        assert done.is_set()
    holder.join()


def test_candidates_in_words() -> None:
    assert parse_candidates("2-8", "x") == (2, 3, 4, 5, 6, 7, 8)
    assert parse_candidates("8, 2,4", "x") == (2, 4, 8)
    assert parse_candidates([4, 2], "x") == (2, 4)
    assert parse_candidates("2-8,16", "x") == (2, 3, 4, 5, 6, 7, 8, 16)
    assert parse_candidates("16", "x") == (16,)
    assert parse_measured_bits("", "x") == ()
    for text in ("9", "a", "2-9", "2-99999999999", "", [True], [2.5], None):
        with pytest.raises(BudgetError, match="--candidates"):
            parse_candidates(text, "--candidates")


def test_public_names_are_those_that_load() -> None:
    import mixqsam
    from mixqsam import api

    assert mixqsam.__all__ == sorted(mixqsam.__all__)
    assert set(mixqsam.__all__) == set(api.__all__)
    for name in mixqsam.__all__:
        assert getattr(mixqsam, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mixqsam.nothing


def test_the_python_interface_does_the_same(model_directory: Path, picture_folder: Path, tmp_path: Path) -> None:
    import mixqsam

    options = mixqsam.AnalysisOptions(sensitivity_bits=(2, 8))
    data = mixqsam.Data(picture_folder, grid=2)
    analysis = mixqsam.analyze(model_directory, data, options=options)
    allocation = mixqsam.allocate(analysis, budget="W5A5")
    # An analysis by itself is one for rounding to nearest; a recipe that compensates weighs the bits otherwise.
    rounding = mixqsam.QuantizationOptions("omse")
    chosen = mixqsam.Options(analysis=options, quantization=rounding)
    result = mixqsam.quantize(model_directory, data, budget="W5A5", output=tmp_path / "out", options=chosen)
    assert result.allocation.plan == allocation.plan
    reports = mixqsam.evaluate({"float": model_directory, "w5": tmp_path / "out"}, data, limit=2)
    assert reports["w5"].images == 2
    predictor = mixqsam.predictor(tmp_path / "out")
    predictor.set_image(open_image(picture_folder / "a.png"))
    assert predictor.segment(mixqsam.Prompts(boxes=np.array([[1.0, 1, 30, 30]]))).masks.shape == (1, 1, 40, 64)


def test_recipes_are_listed() -> None:
    from mixqsam.quantization.recipes import RECIPES

    text = run("recipes").output
    assert all(name in text for name in RECIPES)


def test_a_recipe_that_reconstructs_goes_into_the_directory(model_directory: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        draw(photos / f"{i}.png", width=60, height=50, seed=i)
    out = tmp_path / "out"
    result = quantize(model_directory, photos, out, "--recipe", "ahcptq", "--iterations", 5, "--eval-limit", 1)
    assert result.exit_code == 0, result.output
    assert "mask_decoder.transformer.layers.0: loss" in result.output
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["recipe"] == "ahcptq"
    assert config["units"]["vision_encoder.layers.0.mlp.lin2"]["quantizers"] == {"input": "hybrid"}
    assert config["units"]["vision_encoder.layers.0.attn.qkv"]["quantizers"] == {"input": "grouped"}
    summary = (out / "summary.md").read_text()
    assert "Recipe: `ahcptq`" in summary
    assert "5 pieces were reconstructed." in summary
    assert run("evaluate", out, "-i", photos, "--grid", 2).exit_code == 0
    # The pieces are kept: the same job again is a matter of loading.
    again = quantize(model_directory, photos, tmp_path / "again", "--recipe", "ahcptq", "--iterations", 5)
    assert "loss" not in again.output
    assert (tmp_path / "again/model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_comparison_from_the_command_line(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Suggested names are free ones in the current directory.
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        draw(photos / f"{i}.png", width=60, height=50, seed=i)
    out = tmp_path / "comparison"
    arguments = ["compare", "-m", model_directory, "-i", photos, "-n", 2, "--grid", 2, "-o", out, "-r"]
    result = run(*arguments, "minmax,omse", "-b", "W4A4")
    assert result.exit_code == 0, result.output
    assert "omse, W4A4, mixed" in " ".join(result.output.split())
    assert (out / "comparison.svg").exists()
    # What comes next can be pasted, and makes the best of the models that were compared.
    rows = json.loads((out / "comparison.json").read_text())["rows"]
    best = max(rows, key=lambda row: row["mean_iou"])
    (following,) = [text for text in result.output.splitlines() if text.strip().startswith("mixqsam quantize ")]
    words = shlex.split(following.split("  the best of these")[0])
    pasted = run(*words[1:])
    assert pasted.exit_code == 0, pasted.output
    assert json.loads((tmp_path / "out/allocation.json").read_text())["size"] == best["size"]
    assert json.loads((tmp_path / "out/run.json").read_text())["recipe"] == best["recipe"]
    for wrong, message in (("minmax,best", "'best' is unknown"), (",", "nothing to compare")):
        failed = run(*arguments, wrong, "--overwrite")
        assert (failed.exit_code, message in " ".join(failed.output.split())) == (2, True), failed.output
    assert "exists already" in run(*arguments, "omse").output
    assert "--modes 'mix' is unknown" in run(*arguments, "omse", "--modes", "mix").output
    alone = run("compare", "--annotations", photos / "x.json", "-o", tmp_path / "other")
    assert "need the folder of their images" in " ".join(alone.output.split())


@pytest.mark.slow
def test_the_demonstration_shows_mixed_bits_to_be_better(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    from mixqsam.pipeline.demo import run_demo
    from mixqsam.pipeline.options import Session

    found = run_demo(tmp_path / "demo", budget=Budget.parse("W4A4"), session=Session(), model="sam-tiny")
    uniform, mixed = (found.result.check[name].fidelity for name in ("uniform", "mixed"))
    assert uniform is not None
    assert mixed is not None
    assert mixed.mean_iou > uniform.mean_iou
    assert mixed.kl["bernoulli"] < uniform.kl["bernoulli"]
    assert found.result.uniform is not None
    assert found.result.allocation.size <= found.result.uniform.size
    assert open_image(found.overlay).width > 600


def test_the_demonstration_says_why_it_runs_on_the_embedded_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mixqsam.pipeline.demo import choose_demo_model
    from mixqsam.progress import Silent

    class Notes(Silent):
        heard: ClassVar[list[str]] = []

        def note(self, message: str) -> None:
            self.heard.append(message)

    monkeypatch.setenv("MIXQSAM_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    assert choose_demo_model(Notes()) == "sam-tiny"
    (note,) = Notes.heard
    assert "scripts/get-mobile-sam" in note
    assert note.endswith("The demonstration runs on sam-tiny instead.")


def refuse(*_: object, **__: object) -> None:
    raise ConnectionError("there is not a network")


def test_the_page_opens_the_demonstration_when_no_model_is_named(
    monkeypatch: pytest.MonkeyPatch, quantized: Path, tmp_path: Path
) -> None:
    pytest.importorskip("starlette")
    from mixqsam.serving.server import default_models

    monkeypatch.chdir(tmp_path)
    assert default_models() == ["sam-tiny"]
    shutil.copytree(quantized, tmp_path / "mixqsam-demo/quantized")
    assert default_models() == ["mixqsam-demo/quantized"]


@pytest.fixture(scope="module")
def quantized_once(model_directory: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    more = ("-b", "W6A6", "--eval-limit", 0, "--cache", folder / "cache")
    result = quantize(model_directory, picture_folder, folder / "out", *more)
    assert result.exit_code == 0, result.output
    return folder / "out"


@pytest.fixture
def quantized(quantized_once: Path, tmp_path: Path) -> Path:
    """A directory of the test's own."""
    return shutil.copytree(quantized_once, tmp_path / "out")


@pytest.mark.parametrize(("kind", "ending"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_export_then_predict_and_evaluate(
    quantized: Path, model_directory: Path, picture_folder: Path, tmp_path: Path, kind: str, ending: str
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip({"onnx": "onnxruntime"}.get(kind, kind))
    target = tmp_path / kind
    result = run("export", quantized, "--format", kind, "-o", target)
    assert result.exit_code == 0, result.output
    assert (target / f"sam.encoder{ending}").is_file()
    assert "mixqsam predict IMAGE --model" in result.output
    assert run("export", quantized, "--format", kind, "-o", target).exit_code == 4
    assert run("export", quantized, "--format", kind, "-o", target, "--overwrite").exit_code == 0
    assert leftovers(tmp_path) == sorted(["out", kind])
    image = picture_folder / "a.png"
    box = ["--box", "5,5,40,30"]
    for model, *more in ((target,), (target, "--backend", kind), (quantized, "--backend", "torch")):
        result = run("predict", image, "--model", model, *box, *more, "-o", tmp_path / "mask.png")
        assert result.exit_code == 0, result.output
        assert open_image(tmp_path / "mask.png").size == (64, 40)
    wrong = run("predict", image, "--model", target, *box, "--backend", "torch")
    assert wrong.exit_code == 2
    assert f"holds a model for {kind}" in " ".join(wrong.output.split())
    nothing = run("predict", image, "--model", quantized, *box, "--backend", kind)
    assert nothing.exit_code == 2
    assert "mixqsam export" in nothing.output
    judged = run("evaluate", quantized, target, "-i", picture_folder, "--grid", 2, "-o", tmp_path / "e.json")
    assert judged.exit_code == 0, judged.output
    reports = json.loads((tmp_path / "e.json").read_text())
    assert {"float", str(quantized), str(target)} == reports.keys()
    assert reports[str(target)]["fidelity"]["mean_iou"] > 0.5
    alone = run("evaluate", target, "-i", picture_folder)
    assert alone.exit_code == 2
    assert "--reference" in alone.output


def test_export_refuses_what_it_cannot_write(quantized: Path, model_directory: Path, tmp_path: Path) -> None:
    wrong = run("export", quantized, "--format", "tflite", "-o", tmp_path / "x")
    assert wrong.exit_code == 2
    assert "choose onnx, openvino" in wrong.output
    result = run("export", model_directory, "-o", tmp_path / "x")
    assert result.exit_code == 2
    assert "is not a quantized directory" in " ".join(result.output.split())
    assert leftovers(tmp_path) == ["out"]


def test_export_says_which_extra_is_missing(quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mixqsam.deployed import backends

    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(backends, "import_module", refuse)
    result = run("export", quantized, "--format", "openvino", "-o", tmp_path / "x")
    assert result.exit_code == 2
    assert "pip install 'mixqsam[openvino]'" in " ".join(result.output.split())


def test_benchmark_times_every_backend(quantized: Path, tmp_path: Path) -> None:
    from mixqsam.pipeline.benchmark import installed_backends

    result = run("benchmark", quantized, "--runs", 1, "--everything", "-o", tmp_path / "b.json")
    assert result.exit_code == 0, result.output
    assert "points per second" in " ".join(result.output.split())
    found = json.loads((tmp_path / "b.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert rows.keys() == {"float32, PyTorch", *installed_backends()}
    assert all(row["encoder"] > 0 and row["decoder"] > 0 for row in rows.values())
    assert rows["float32, PyTorch"]["speedup"] == 1
    # Python with its libraries, and not a process that is larger.
    assert all(5e7 < row["memory"] < 4e9 for row in rows.values())
    assert rows["torch"]["file_bytes"] < rows["float32, PyTorch"]["file_bytes"]
    assert found["size"] < rows["torch"]["file_bytes"]
    for row in rows.values():
        batch, rate, image = (row["everything"][key] for key in ("batch", "points_per_second", "image"))
        assert row["everything"]["points"] == 64
        assert rate == pytest.approx(64 / batch)
        assert image == pytest.approx(row["encoder"] + 16 * batch)
    wrong = run("benchmark", quantized, "--backends", "torch,jax")
    assert wrong.exit_code == 2
    assert "choose torch, onnx, openvino" in " ".join(wrong.output.split())
    wrong = run("benchmark", quantized, "--units", "--everything")
    assert wrong.exit_code == 2
    assert "leave out --everything or --units" in " ".join(wrong.output.split())
