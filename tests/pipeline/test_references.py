from pathlib import Path

import pytest

from mixqsam.deployed.backends import ONNX, OPENVINO
from mixqsam.deployed.names import ENCODER
from mixqsam.pipeline.evaluate import with_reference
from mixqsam.pipeline.stages import MARKER


@pytest.mark.parametrize("file", [Path(MARKER), ONNX.file(Path(), ENCODER), OPENVINO.file(Path(), ENCODER)])
def test_a_quantized_reference_is_not_called_float(tmp_path: Path, file: Path) -> None:
    (tmp_path / file).touch()
    assert with_reference(["other"], str(tmp_path)) == {"reference": str(tmp_path), "other": "other"}
    assert list(with_reference(["other"], "sam-tiny")) == ["float", "other"]
