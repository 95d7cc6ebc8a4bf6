"""The base install is enough for all that needs no extra."""

import subprocess
import sys

import pytest

# A Python that has none of the packages of the extras.
_WITHOUT = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in {extras} else find(name, *rest)
"""
_EXTRAS = {
    *("accelerate", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "openvino"),
    *("shapely", "skimage", "sklearn", "starlette", "uvicorn"),
}


def run_without_extras(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that lacks the extras' packages."""
    text = _WITHOUT.format(extras=_EXTRAS) + code
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)


def test_every_public_name_is_there() -> None:
    done = run_without_extras("import mixqsam\nprint(len([getattr(mixqsam, name) for name in mixqsam.__all__]))")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_the_embedded_model_predicts() -> None:
    code = (
        "import mixqsam, numpy as np\n"
        "predictor = mixqsam.predictor('sam-tiny')\n"
        "predictor.set_image(np.zeros((40, 60, 3), np.uint8))\n"
        "print(predictor.predict(box=[5, 5, 30, 30])[0].shape)"
    )
    done = run_without_extras(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(3, 40, 60)"


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["serve"], "mixqsam[serve]"),
        (["demo"], "mixqsam[demo]"),
        (["evaluate-oriented", "sam-tiny", "--images", ".", "--labels", "."], "mixqsam[oriented]"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_missing_extra_is_named(words: list[str], extra: str) -> None:
    code = f"import sys\nsys.argv = {['mixqsam', *words]}\nfrom mixqsam.cli.main import run\nrun()"
    done = run_without_extras(code)
    message = " ".join(done.stderr.split())
    assert done.returncode == 2, message
    assert extra in message
    assert "Internal error" not in message
