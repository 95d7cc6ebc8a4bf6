from pathlib import Path

import numpy as np
import pytest

from mixqsam.artifact.manifest import Manifest
from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import OPENVINO
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.deployed.sessions import OpenvinoSession
from mixqsam.errors import ArtifactError
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor
from tests.exporting.test_onnx import BOTH, BOXES, POINTS, compare
from tests.oracles import nearest

pytest.importorskip("onnx", reason="needs the extra openvino")
pytest.importorskip("openvino", reason="needs the extra openvino")

from mixqsam.exporting.files import ExportOptions, export


def write(sam: Sam, plan: BitPlan, folder: Path) -> ExportedPredictor:
    manifest = Manifest.of(sam, plan, recipe="minmax", prompts_per_image=1)
    export(sam, manifest, folder, backend=OPENVINO, options=ExportOptions())
    return ExportedPredictor(folder, backend="openvino", precision="f32")


def test_a_float_plan_gives_the_float_model(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    mine = write(sam, sam.costs().float_plan, tmp_path)
    for sample in samples:
        for prompts in (BOXES, POINTS, BOTH):
            for multimask in (False, True):
                assert compare(mine, SamPredictor(sam), sample, prompts, multimask=multimask) < 1e-3


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_model_gives_what_ours_gives(sam: Sam, samples: list[Sample], tmp_path: Path, bits: int) -> None:
    ranges = calibrate(sam, samples, observer="minmax", progress=Silent())
    plan = BitPlan.uniform(sam.costs().units, UnitBits(bits, bits))
    model = nearest(sam, plan, ranges)
    mine, theirs = write(model, plan, tmp_path), SamPredictor(model)
    for predictor in (mine, theirs):
        predictor.set_image(samples[0].open())
    found, expected = (predictor.segment(BOXES).logits.ravel() for predictor in (mine, theirs))
    assert np.corrcoef(found, expected)[0, 1] > {4: 0.98, 8: 0.9995}[bits]


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "sam.decoder.xml").touch()
    with pytest.raises(ArtifactError, match=r"sam\.decoder\.bin does not exist; it belongs to sam\.decoder\.xml"):
        OpenvinoSession(tmp_path / "sam.decoder.xml")
