"""The README's code runs as it is written."""

import re
from pathlib import Path

import pytest

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import save_model
from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam
from tests.conftest import draw
from tests.oracles import nearest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(sam: Sam, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
    model = nearest(sam, plan, calibrate(sam, samples, observer="minmax", progress=Silent()))
    (folder / "out").mkdir()
    save_model(model, Manifest.of(model, plan, recipe="minmax", prompts_per_image=1), folder / "out")
    draw(folder / "photo.jpg", width=64, height=60, seed=0)
    return folder


def test_there_are_three_ways_to_load() -> None:
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("code", BLOCKS, ids=["transformers", "PyTorch", "ONNX Runtime"])
def test_the_code_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    if "onnx" in code:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(workplace)
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)  # noqa: S102  (this repository's own text)
    if "masks" in names:
        masks = names["masks"]
        assert masks.shape[-2:] == (60, 64)  # type: ignore[attr-defined]
    else:
        assert (workplace / "copy" / "model.safetensors").is_file()
