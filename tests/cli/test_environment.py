"""A broken library in the environment, and ids of the hub beside folders: neither is a fault of mixqsam."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixqsam.cli.environment import describe_broken_import
from mixqsam.errors import ModelError
from mixqsam.sam.load import load_sam


def run(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mixqsam", *arguments],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def broken_package(folder: Path, name: str, version: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text('raise RuntimeError("operator nms does not exist")\n')
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_broken_torchvision_is_named(tmp_path: Path, picture_folder: Path, model_directory: Path) -> None:
    broken_package(tmp_path / "packages", "torchvision", "0.28.0")
    paths = os.pathsep.join([str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")])
    picture = next(picture_folder.glob("*.png"))
    arguments = ["predict", str(picture), "--model", str(model_directory), "--box", "5,5,30,30", "-o", "m.png"]
    done = run(arguments, tmp_path, PYTHONPATH=paths)
    text = " ".join(done.stderr.split())
    assert done.returncode == 2
    assert "cannot be imported: torchvision: operator nms does not exist" in text
    assert "bug" not in text


def test_other_errors_are_not_the_environments() -> None:
    for error in (ValueError("x"), ImportError("x", name="mixqsam.gone"), RuntimeError("x")):
        assert describe_broken_import(error) is None
    assert "nowhere" in str(describe_broken_import(ModuleNotFoundError("No module", name="nowhere")))


def test_an_id_of_the_hub_beside_a_folder_of_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(place: str) -> tuple[object, object]:
        asked.append(place)
        raise ModelError(f"{place} cannot be loaded as a SAM: it is not there")

    monkeypatch.setattr("mixqsam.sam.load._load_transformers", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme").mkdir()
    for text, message in (
        ("acme/sam-x", "acme/sam-x is not in the folder acme; as an id on the hub: acme/sam-x cannot"),
        ("other/sam-x", "^other/sam-x cannot be loaded"),
    ):
        with pytest.raises(ModelError, match=message):
            load_sam(text)
    assert asked == ["acme/sam-x", "other/sam-x"]
