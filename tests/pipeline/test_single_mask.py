"""`evaluate --no-dynamic-multimask`: the single mask of SAM 2 and SAM 3 is judged, whatever its stability."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import mixqsam
from mixqsam.cli.main import app
from mixqsam.deployed.backends import ONNX
from mixqsam.deployed.names import ENCODER
from mixqsam.errors import InputError
from mixqsam.families import FAMILIES
from mixqsam.families.compatibility import random_model
from mixqsam.pipeline.options import Data

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module", params=["sam2", "sam3_tracker"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights, to which no mask is stable enough."""
    folder = tmp_path_factory.mktemp("dynamic") / "float"
    family = FAMILIES[request.param]
    with torch.no_grad():
        random_model(family).save_pretrained(folder)
    family.framing.default(family.sample()).save_pretrained(folder)  # type: ignore[misc]
    change_decoder(folder, dynamic_multimask_stability_thresh=2.0)
    return folder


def change_decoder(folder: Path, **values: object) -> None:
    """Write values into the decoder's configuration of a model."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["mask_decoder_config"] |= values
    path.write_text(json.dumps(content))


def masks(model: Path, picture_folder: Path, folder: Path, *, dynamic_multimask: bool) -> object:
    """The COCO results of a model: its masks as run lengths, with scores."""
    annotations = folder / "annotations.json"
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 25, 25], "area": 625, "iscrowd": 0}
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": 40}
    content = {
        "images": [image],
        "annotations": [box | {"segmentation": [[5, 5, 30, 5, 30, 30, 5, 30]]}],
        "categories": [{"id": 1, "name": "disc"}],
    }
    annotations.write_text(json.dumps(content))
    results = folder / f"{model.name}-{dynamic_multimask}.json"
    data = Data(picture_folder, annotations=annotations)
    cache = folder / "cache"
    mixqsam.evaluate(model, data, results=results, dynamic_multimask=dynamic_multimask, cache=cache, reference=model)
    return json.loads(results.read_text())


def test_the_single_mask_is_that_of_a_model_without_dynamic_multimask(
    model: Path, picture_folder: Path, tmp_path: Path
) -> None:
    dynamic = masks(model, picture_folder, tmp_path, dynamic_multimask=True)
    single = masks(model, picture_folder, tmp_path, dynamic_multimask=False)
    shutil.copytree(model, tmp_path / "single")
    change_decoder(tmp_path / "single", dynamic_multimask_via_stability=False)
    expected = masks(tmp_path / "single", picture_folder, tmp_path, dynamic_multimask=True)
    assert single == expected
    assert single != dynamic  # both come from the same cache


def test_exported_files_are_refused_before_a_reference_is_asked_for(picture_folder: Path, tmp_path: Path) -> None:
    ONNX.file(tmp_path, ENCODER).touch()
    with pytest.raises(InputError, match="holds files for ONNX Runtime, which cannot change how a mask is chosen"):
        mixqsam.evaluate(tmp_path, picture_folder, dynamic_multimask=False)
    result = CliRunner().invoke(
        app, ["evaluate", str(tmp_path), "--images", str(picture_folder), "--no-dynamic-multimask"]
    )
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert "or leave out --no-dynamic-multimask" in text
    assert "--reference" not in text


def test_models_without_dynamic_multimask_are_refused(model_directory: Path, picture_folder: Path) -> None:
    with pytest.raises(InputError, match="is a SAM, whose single mask is never replaced"):
        mixqsam.evaluate({"float": model_directory}, picture_folder, dynamic_multimask=False)
    words = ["evaluate", str(model_directory), "--images", str(picture_folder), "--no-dynamic-multimask"]
    words += ["--reference", str(model_directory)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "leave out --no-dynamic-multimask" in " ".join(result.output.split())
