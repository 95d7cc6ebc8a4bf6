import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from mixqsam.deployed import sessions
from mixqsam.deployed.backends import BACKENDS, ONNX, Backend, backend_of
from mixqsam.deployed.image import Preprocessing
from mixqsam.deployed.names import DECODER, ENCODER
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.errors import ArtifactError, InputError
from mixqsam.prompts import Prompts
from mixqsam.sam.forward import make_frame
from mixqsam.sam.load import Sam, load_sam


@pytest.mark.parametrize("size", [(64, 40), (40, 64), (50, 50), (333, 217), (1, 90)])
def test_images_are_prepared_as_transformers_does(size: tuple[int, int]) -> None:
    sam = load_sam("sam-tiny")
    image = Image.effect_noise(size, 80).convert("RGB")
    settings = Preprocessing(
        sam.config.vision_config.image_size, tuple(sam.processor.image_mean), tuple(sam.processor.image_std), raw=False
    )
    frame = make_frame(sam, image)
    assert settings.visible((image.height, image.width)) == frame.resized
    np.testing.assert_allclose(settings.frame(image), frame.pixels.numpy(), atol=1e-5)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"sam.encoder.onnx does not exist; make it with `mixqsam export"):
        ExportedPredictor(tmp_path, backend="onnx")
    assert backend_of(tmp_path) is None


@pytest.mark.parametrize(("backend", "ending"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, ending: str
) -> None:
    def refuse(name: str) -> object:
        if name in {"onnxruntime", "openvino"}:
            raise ImportError(name)
        return import_module(name)

    monkeypatch.setattr(sessions, "import_module", refuse)
    (tmp_path / f"{ENCODER}{ending}").touch()
    assert backend_of(tmp_path) is BACKENDS[backend]
    with pytest.raises(InputError, match=rf"pip install 'mixqsam\[{backend}\]'"):
        ExportedPredictor(tmp_path, backend=backend)


@pytest.mark.parametrize(
    ("backend", "ending", "library"), [("onnx", ".onnx", "onnxruntime"), ("openvino", ".xml", "openvino")]
)
def test_a_damaged_file_is_named(
    tmp_path: Path, backend: Literal["onnx", "openvino"], ending: str, library: str
) -> None:
    pytest.importorskip(library)
    for name in (ENCODER, DECODER):
        (tmp_path / f"{name}{ending}").write_bytes(b"no model")
        (tmp_path / f"{name}.bin").write_bytes(b"no weights")
    with pytest.raises(ArtifactError, match=rf"sam.encoder\{ending} cannot be loaded"):
        ExportedPredictor(tmp_path, backend=backend)


def test_another_tools_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign:
        metadata = ""

    monkeypatch.setattr(Backend, "load", lambda *_, **__: Foreign())
    with pytest.raises(ArtifactError, match="does not say how it was made"):
        ExportedPredictor(tmp_path, backend="onnx")


def test_exported_models_need_no_torch() -> None:
    code = "import sys, mixqsam; mixqsam.ExportedPredictor; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_order_of_use(sam: Sam, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from mixqsam.artifact.manifest import Manifest
    from mixqsam.exporting.files import ExportOptions, export

    manifest = Manifest.of(sam, sam.costs().float_plan, recipe="none", prompts_per_image=1)
    export(sam, manifest, tmp_path, backend=ONNX, options=ExportOptions(single=True))
    predictor = ExportedPredictor(tmp_path, backend="onnx")
    box = Prompts(boxes=np.array([[1.0, 1, 30, 30]]))
    with pytest.raises(InputError, match="call set_image first"):
        predictor.segment(box)
    predictor.set_image(np.zeros((40, 64, 3), np.uint8))
    with pytest.raises(InputError, match="no prompts"):
        predictor.segment(Prompts())
    with pytest.raises(InputError, match="exported with --single-mask"):
        predictor.segment(box, multimask=True)
    many = Prompts(boxes=np.tile([[1.0, 1, 30, 30]], (20, 1)))
    found = predictor.segment(many, full=True)
    assert found.masks.shape == (20, 1, 40, 64)
    assert found.full is not None
    assert np.array_equal(found.full > 0, found.masks)
    predictor.reset_image()
    with pytest.raises(InputError, match="call set_image first"):
        predictor.segment(box)
