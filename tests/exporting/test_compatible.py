"""The form of ONNX files for older runtimes, and what other people's tools read of both forms."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

import mixqsam
from mixqsam.artifact.manifest import Manifest
from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import ONNX
from mixqsam.deployed.names import DECODER, ENCODER
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.errors import InputError
from mixqsam.families import prepare
from mixqsam.families.mobile_sam import make_processor
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor
from tests.families.released import random_mobile_sam
from tests.families.released import tiny_config as mobile_config
from tests.oracles import nearest

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from mixqsam.exporting.files import ExportOptions, export  # noqa: E402

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 64, 3), dtype=np.uint8)


@pytest.fixture(params=["sam", "mobile_sam"])
def quantized(request: pytest.FixtureRequest, sam: Sam, samples: list[Sample]) -> tuple[Sam, Manifest]:
    if request.param == "mobile_sam":
        config = mobile_config()
        sam = Sam(prepare(random_mobile_sam(config)).requires_grad_(False), make_processor(config), "mobile-sam")
    plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
    model = nearest(sam, plan, calibrate(sam, samples, observer="minmax", progress=Silent()))
    return model, Manifest.of(model, plan, recipe="minmax", prompts_per_image=1)


def write(quantized: tuple[Sam, Manifest], folder: Path, *, compatible: bool) -> Path:
    folder.mkdir()
    export(*quantized, folder, backend=ONNX, options=ExportOptions(compatible=compatible))
    return folder


def test_the_compatible_form_is_opset_17_with_bytes_and_gives_the_same(
    quantized: tuple[Sam, Manifest], tmp_path: Path
) -> None:
    folders = {kind: write(quantized, tmp_path / kind, compatible=kind == "old") for kind in ("old", "new")}
    for kind, folder in folders.items():
        for name in (ENCODER, DECODER):
            model = onnx.load(str(folder / f"{name}.onnx"))
            assert (model.producer_name, model.producer_version) == ("mixqsam", mixqsam.__version__)
            short = [one.name for one in model.graph.initializer if one.data_type == onnx.TensorProto.UINT4]
            if kind == "old":
                # ONNX Runtime reads this from 1.13 on.
                assert (model.ir_version, [one.version for one in model.opset_import]) == (8, [17])
                onnx.checker.check_model(model, full_check=True)
            assert bool(short) == (kind == "new")
    expected = SamPredictor(quantized[0])
    expected.set_image(IMAGE)
    for folder in folders.values():
        predictor = ExportedPredictor(folder, backend="onnx")
        predictor.set_image(IMAGE)
        for box in ([5, 5, 40, 50], [[5, 5, 40, 50], [1, 2, 30, 20]]):
            mine, theirs = predictor.predict(box=box), expected.predict(box=box)
            # Float parts differ in the seventh digit, which moves some values by a whole step.
            assert float(np.abs(mine[2] - theirs[2]).mean()) < 0.2 * float(np.abs(theirs[2]).mean())


@pytest.mark.parametrize("compatible", [False, True])
def test_the_quantizer_of_onnx_runtime_can_prepare_both_files(
    quantized: tuple[Sam, Manifest], tmp_path: Path, compatible: bool
) -> None:
    shapes = pytest.importorskip("onnxruntime.quantization.shape_inference", exc_type=ImportError)
    folder = write(quantized, tmp_path / "files", compatible=compatible)
    for name in (ENCODER, DECODER):
        shapes.quant_pre_process(str(folder / f"{name}.onnx"), str(tmp_path / f"{name}.prepared.onnx"))
        assert (tmp_path / f"{name}.prepared.onnx").is_file()


def test_openvino_has_one_form(tmp_path: Path, sam: Sam, samples: list[Sample]) -> None:
    from mixqsam.artifact.store import save_model

    pytest.importorskip("openvino")
    plan = sam.costs().float_plan
    save_model(sam, Manifest.of(sam, plan, recipe="none", prompts_per_image=1), tmp_path)
    with pytest.raises(InputError, match="--compatible is for ONNX"):
        mixqsam.export(tmp_path, tmp_path / "openvino", format="openvino", compatible=True)


def test_the_extra_asks_for_the_runtime_that_reads_the_default_form() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "onnxruntime>=1.23" in pyproject["project"]["optional-dependencies"]["onnx"]
    page = (Path(__file__).parents[2] / "docs/formats/onnx.md").read_text()
    assert "ONNX Runtime 1.23" in page
    assert "ONNX Runtime 1.15" in page


def test_the_compatible_form_of_float_activations_has_bytes_too(
    sam: Sam, samples: list[Sample], tmp_path: Path
) -> None:
    plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 16))
    model = nearest(sam, plan, calibrate(sam, samples, observer="minmax", progress=Silent()))
    write((model, Manifest.of(model, plan, recipe="minmax", prompts_per_image=1)), tmp_path / "old", compatible=True)
    for name in (ENCODER, DECODER):
        file = onnx.load(str(tmp_path / f"old/{name}.onnx"))
        assert onnx.TensorProto.UINT4 not in {one.data_type for one in file.graph.initializer}
        onnx.checker.check_model(file, full_check=True)
