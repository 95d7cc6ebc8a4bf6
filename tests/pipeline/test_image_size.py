"""`image_size`: every step of a job knows the size, and compares with the float model of that size."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mixqsam
from mixqsam.artifact.store import load_model
from mixqsam.cli.main import app
from mixqsam.errors import InputError
from mixqsam.evaluation.evaluate import evaluate
from mixqsam.pipeline.automatic import run_automatic
from mixqsam.pipeline.benchmark import float_predictor
from mixqsam.pipeline.card import find_hub_id
from mixqsam.pipeline.evaluate import run_evaluation, with_reference
from mixqsam.pipeline.options import Data, Session
from mixqsam.pipeline.stages import make_predictor
from mixqsam.progress import Silent
from mixqsam.sam.automatic_options import Automatic
from mixqsam.sam.load import load_sam
from mixqsam.sam.predictor import SamPredictor
from mixqsam.serving.workspace import collect_models

pytestmark = pytest.mark.versions


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def directory(model_directory: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny SAM of 80 pixels, quantized for frames of 48."""
    folder = tmp_path_factory.mktemp("sized")
    words = ["--image-size", "48", "--budget", "uniform:W8A8", "--recipe", "minmax", "--count", "1", "--grid", "1"]
    output = run(
        *("quantize", "--model", model_directory, "--images", picture_folder, "-o", folder / "out", *words),
        *("--eval-limit", "1", "--cache", folder / "cache"),
    )
    assert "frames of 48 pixels" in " ".join(output.split())
    return folder / "out"


def test_the_run_is_recorded_and_repeated(directory: Path, model_directory: Path, tmp_path: Path) -> None:
    options = json.loads((directory / "run.json").read_text())["options"]
    assert (options["model"], options["image_size"]) == (str(model_directory), 48)
    run("quantize", "--config", directory / "run.json", "-o", tmp_path / "again", "--cache", tmp_path / "cache")
    content = (tmp_path / "again/model.safetensors").read_bytes()
    assert content == (directory / "model.safetensors").read_bytes()
    assert load_model(tmp_path / "again")[0].image_size == 48
    for page in ("summary.md", "report.html"):
        assert "frames of 48 pixels" in " ".join((directory / page).read_text().split())


def test_the_float_model_of_an_evaluation_has_the_same_size(
    directory: Path, model_directory: Path, picture_folder: Path, session: Session
) -> None:
    sources = with_reference([str(directory)], None)
    assert sources["float"] == f"{model_directory}@48"
    session.progress = notes = Notes()
    found = run_evaluation(sources, Data(picture_folder, grid=1), limit=1, session=session)
    assert f"The float model is {model_directory}@48" in notes.said[0]
    predictors = {
        "float": SamPredictor(load_sam(f"{model_directory}@48")),
        "other": SamPredictor(load_model(directory)[0]),
    }
    data = Data(picture_folder, grid=1).samples(count=1, progress=Silent())[:1]
    expected = evaluate(predictors, data, annotations=None, progress=Silent())["other"].fidelity
    assert found[str(directory)].fidelity == expected
    sources = with_reference([str(directory)], str(model_directory))
    with pytest.raises(InputError, match="cannot be compared; .* float model of that size with --reference, such as"):
        run_evaluation(sources, Data(picture_folder, grid=1), limit=1, session=session)
    session.progress = notes = Notes()
    run_automatic(sources, Data(picture_folder), options=Automatic(side=1), session=session, limit=1)
    (said,) = [text for text in notes.said if "differ in size" in text]
    assert f"float 80 pixels, {directory} 48 pixels" in said


def test_the_page_and_the_benchmark_have_the_same_frames(directory: Path, model_directory: Path) -> None:
    served = collect_models([str(directory)])
    assert served == {"float": f"{model_directory}@48", "out": str(directory)}
    assert {make_predictor(source).frame_side for source in served.values()} == {48}
    assert float_predictor(directory).frame_side == 48


def test_python_and_other_commands_take_a_size(model_directory: Path, picture_folder: Path, tmp_path: Path) -> None:
    options = mixqsam.AnalysisOptions(count=1, importance=False, sensitivity_bits=(), fisher=())
    data = mixqsam.Data(picture_folder, grid=1)
    found = mixqsam.analyze(
        model_directory, data, image_size=48, options=options, output=tmp_path / "analysis.json", cache=tmp_path
    )
    assert found.model == f"{model_directory}@48"
    record = json.loads((tmp_path / "analysis.json").read_text())["options"]
    assert (record["model"], record["image_size"]) == (str(model_directory), 48)
    said = run("allocate", tmp_path / "analysis.json", "-b", "uniform:W8A8", "-o", tmp_path / "a.json")
    assert "--image-size 48" in " ".join(said.split())
    with pytest.raises(mixqsam.InputError, match="nearest are 48 and 64"):
        mixqsam.compare(model_directory, data, image_size=50, output=tmp_path / "comparison", cache=tmp_path)
    assert not (tmp_path / "comparison").exists()


def test_the_card_names_the_model_on_the_hub() -> None:
    assert find_hub_id("facebook/sam-vit-base@512") == "facebook/sam-vit-base"
    assert find_hub_id("sam-vit-base@512") == "facebook/sam-vit-base"
    assert find_hub_id("sam-tiny@128") is None
