"""The model card, and what leaves the machine: a fake stands in the place of the hub's client."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from benchmarks.tiny import quantize
from huggingface_hub import ModelCard
from typer.testing import CliRunner, Result

import mixqsam
from mixqsam.cli import sharing
from mixqsam.cli.main import app
from mixqsam.errors import ArtifactError, InputError, OutputError
from mixqsam.pipeline import push
from mixqsam.pipeline.card import find_hub_id
from mixqsam.pipeline.options import Data, Evaluation, Options
from mixqsam.pipeline.sharing import SharingOptions

ALWAYS = {"README.md", "config.json", "preprocessor_config.json", "model.safetensors"}
ALWAYS |= {"analysis.json", "allocation.json", "units.csv"}


class FakeHub:
    """Remembers what it is given."""

    def __init__(self) -> None:
        self.repositories: list[tuple[str, bool | None]] = []
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
        assert exist_ok
        self.repositories.append((repo_id, private))
        return f"https://huggingface.co/{repo_id}"

    def create_commit(self, repo_id: str, operations: Any, *, commit_message: str) -> None:
        assert (repo_id, commit_message) == (self.repositories[-1][0], "Model quantized by mixqsam")
        for operation in operations:
            with operation.as_file() as stream:
                self.files[operation.path_in_repo] = stream.read()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(push, "open_hub", lambda: fake)
    return fake


@pytest.fixture(scope="module")
def made(model_directory: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize(model_directory, picture_folder, tmp_path_factory.mktemp("shared") / "out", check=1)


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def head(text: str) -> dict[str, Any]:
    """The metadata that the hub reads from a card."""
    data: dict[str, Any] = ModelCard(text).data.to_dict()  # type: ignore[no-untyped-call]
    return data


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_card_holds_the_records_figures_and_is_what_the_hub_reads(made: Path) -> None:
    text = (made / "README.md").read_text()
    data = head(text)
    assert data["library_name"] == "mixqsam"
    assert data["pipeline_tag"] == "mask-generation"
    assert "quantized" in data["tags"]
    # The float model is a local directory, and nobody named a licence.
    assert not {"base_model", "license"} & data.keys()
    record = json.loads((made / "run.json").read_text())
    figures = record["models"]["mixed"]
    for words in (
        f"{figures['size'] / 1e6:.2f} MB",
        f"{figures['mean_iou']:.3f}",
        "2 images calibrated the model",
        "measured on 1 image with 4 prompts (grid points); the calibration did not use them",
        "`W4A4`",
        "**this model**",
    ):
        assert words in text, words


def test_the_card_names_the_licence_and_the_float_model_on_the_hub(
    model_directory: Path, picture_folder: Path, tmp_path: Path
) -> None:
    result = mixqsam.quantize(
        model_directory,
        Data(picture_folder, grid=2),
        budget="uniform:W8A8",
        output=tmp_path / "out",
        options=Options(sharing=SharingOptions(license="Apache-2.0", no_images=True)),
        evaluation=Evaluation(Data(picture_folder, grid=2), limit=1),
        cache=tmp_path / "cache",
    )
    text = (tmp_path / "out/README.md").read_text()
    assert head(text)["license"] == "apache-2.0"
    assert "All layers have the same bits, W8A8." in text
    # Quality is measured, but no picture is kept.
    assert result.run.models["uniform"].mean_iou is not None
    assert not (tmp_path / "out/examples").exists()
    assert "data:image" not in (tmp_path / "out/report.html").read_text()
    assert result.run.options["no_images"] is True
    assert find_hub_id("facebook/sam-vit-base") == "facebook/sam-vit-base"
    assert find_hub_id("sam-vit-base") == "facebook/sam-vit-base"
    assert find_hub_id("sam-tiny") is None
    assert find_hub_id(str(model_directory)) is None


def test_the_cards_code_runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "OWNER/NAME")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: name)
    blocks = re.findall(r"```python\n(.*?)```", (made / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})  # noqa: S102  (our own text)
    commands = re.findall(r"^mixqsam export .*$", (made / "README.md").read_text(), flags=re.MULTILINE)
    assert len(commands) == 2
    shutil.copytree(made, tmp_path / "model")
    pytest.importorskip("onnx")
    done = run(*commands[0].split()[1:])
    assert done.exit_code == 0, done.output


def test_photographs_stay_unless_they_are_asked_for(out: Path, hub: FakeHub) -> None:
    done = run("push", out, "me/small", "--license", "apache-2.0", "--yes")
    assert done.exit_code == 0, done.output
    assert hub.files.keys() == ALWAYS
    assert hub.repositories == [("me/small", None)]
    text = hub.files["README.md"].decode()
    assert head(text)["license"] == "apache-2.0"
    assert 'from_pretrained("me/small")' in text
    assert "OWNER/NAME" not in text
    assert hub.files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    # What stays is named with its reason.
    for words in ("report.html", "it shows your images; --with-images sends it", "it holds paths of this machine"):
        assert words in done.stderr
    (out / "notes.txt").write_text("mine")
    done = run("push", out, "me/small", "--license", "mit", "--with-images", "--private", "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert hub.repositories[-1] == ("me/small", True)
    pictures = {str(path.relative_to(out)) for path in (out / "examples").iterdir()}
    assert hub.files.keys() == ALWAYS | {"report.html", "summary.md"} | pictures
    assert len(pictures) >= 3
    facts = json.loads(done.stdout)
    assert facts["sent"]["config.json"] == (out / "config.json").stat().st_size
    assert facts["kept"]["notes.txt"] == "not a file of mixqsam"


def test_a_report_without_pictures_is_sent(out: Path, hub: FakeHub) -> None:
    (out / "report.html").write_text("<p>no pictures</p>")
    assert run("push", out, "me/small", "--license", "mit", "--yes").exit_code == 0
    assert hub.files.keys() == ALWAYS | {"report.html"}


def test_nothing_is_sent_without_a_yes(out: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("push", out, "me/small", "--license", "mit")
    assert done.exit_code == 2
    assert "add --yes" in done.stderr
    assert "model.safetensors" in done.stderr

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    with pytest.raises(InputError, match=r"Nothing was sent\."):
        sharing.push(directory=out, repository="me/small", license="mit")
    assert hub.repositories == []
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    sharing.push(directory=out, repository="me/small", license="mit")
    assert hub.files.keys() == ALWAYS


def test_python_plans_first_and_sends_with_a_yes(out: Path, hub: FakeHub) -> None:
    planned = mixqsam.push(out, "me/small", license="mit")
    assert planned.url is None
    assert hub.files == {}
    assert planned.sizes["model.safetensors"] == (out / "model.safetensors").stat().st_size
    sent = mixqsam.push(out, "me/small", license="mit", yes=True)
    assert sent.url == "https://huggingface.co/me/small"
    assert {name: len(content) for name, content in hub.files.items()} == planned.sizes


def test_what_cannot_be_pushed_is_refused(out: Path, tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(InputError, match="names no licence"):
        mixqsam.push(out, "me/small", yes=True)
    with pytest.raises(InputError, match="apache-2.0"):
        mixqsam.push(out, "me/small", license="my own words", yes=True)
    for name in ("small", "me/small/er", "../x", "me/"):
        with pytest.raises(InputError, match="write OWNER/NAME"):
            mixqsam.push(out, name, license="mit", yes=True)
    with pytest.raises(ArtifactError, match="is not a directory that `mixqsam quantize` wrote"):
        mixqsam.push(tmp_path, "me/small", license="mit", yes=True)
    assert hub.repositories == []


def test_a_licence_in_the_card_is_enough_and_older_directories_get_a_card(out: Path, hub: FakeHub) -> None:
    card = out / "README.md"
    text = card.read_text()
    card.write_text(text.replace("---\n", "---\nlicense: mit\n", 1) + "\nMy words.\n")
    mixqsam.push(out, "me/small", yes=True)
    sent = hub.files["README.md"].decode()
    assert head(sent)["license"] == "mit"
    assert sent.endswith("My words.\n")
    mixqsam.push(out, "me/small", license="apache-2.0", yes=True)
    assert head(hub.files["README.md"].decode())["license"] == "apache-2.0"
    # The file on this machine stays as it is.
    assert head(card.read_text())["license"] == "mit"
    card.unlink()
    mixqsam.push(out, "me/small", license="mit", yes=True)
    wanted = text.replace("OWNER/NAME", "me/small").replace("precision\n---", 'precision\nlicense: "mit"\n---')
    assert hub.files["README.md"].decode() == wanted


def test_a_hub_that_refuses_is_an_error_that_says_what_to_do(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Offline, the client itself refuses.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OutputError, match="hf auth login"):
        mixqsam.push(out, "me/small", license="mit", yes=True)
