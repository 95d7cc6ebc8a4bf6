"""The scripts in examples/ do what their first lines say, as a user would start them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw
from tests.forked import run_python

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workplace(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").mkdir()
    for index in range(5):
        draw(folder / f"photos/{index}.jpg", width=64, height=60, seed=index)
    (folder / "my-sam").symlink_to(model_directory)
    return folder


def run(name: str, *arguments: str, folder: Path) -> str:
    environment = {**os.environ, "MIXQSAM_CACHE": str(folder / "cache")}
    done = run_python([ROOT / "examples" / name, *arguments], environment=environment, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_shrink_then_deploy(workplace: Path) -> None:
    printed = run("shrink_finetuned.py", "my-sam", "photos", "0.6x", "out", folder=workplace)
    assert "IoU with the float model's: " in printed
    assert (workplace / "out/report.html").is_file()
    models = json.loads((workplace / "out/run.json").read_text())["models"]
    assert models["mixed"]["size"] <= 0.6 * models["float"]["size"]

    pytest.importorskip("onnxruntime")
    arguments = ["out", "out-onnx", "photos/0.jpg", "--box", "10", "10", "50", "50", "--mask", "mask.png"]
    printed = run("deploy_onnxruntime.py", *arguments, folder=workplace)
    assert "predicted IoU" in printed
    mask = np.asarray(Image.open(workplace / "mask.png"))
    assert mask.shape == (60, 64)
    assert set(np.unique(mask)) <= {0, 255}


def test_compare(workplace: Path) -> None:
    arguments = ["my-sam", "photos", "comparison", "--recipes", "minmax", "omse", "--budgets", "W4A4"]
    printed = run("compare_recipes.py", *arguments, "--calibration", "2", folder=workplace)
    assert printed.startswith("W4A4: ")
    assert (workplace / "comparison/comparison.svg").is_file()


def notebook_code() -> str:
    """The notebook's code without the cell that installs."""
    cells = json.loads((ROOT / "examples/quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    chosen = [
        cell for cell in cells if cell["cell_type"] == "code" and "install" not in cell["metadata"].get("tags", ())
    ]
    return "\n\n".join("".join(cell["source"]) for cell in chosen)


def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("skimage")
    script = tmp_path / "notebook.py"
    script.write_text(notebook_code(), encoding="utf-8")
    environment = {**os.environ, "MIXQSAM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    agreement, same = (float(line.split()[-2 if "agree" in line else 0]) for line in done.stdout.splitlines())
    assert agreement > 0.8
    assert same > 0.99


def test_each_says_how_it_is_started() -> None:
    scripts = sorted((ROOT / "examples").glob("*.py"))
    assert len(scripts) == 3
    for script in scripts:
        assert f"python examples/{script.name} " in script.read_text(encoding="utf-8")
