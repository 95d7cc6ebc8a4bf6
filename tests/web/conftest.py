"""The runtime's npm package, published and without content, and a page of a tiny model."""

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import mixqsam
from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import save_model
from mixqsam.calibrate import calibrate
from mixqsam.data.images import open_image
from mixqsam.data.samples import Sample
from mixqsam.deployed.names import DECODER, ENCODER
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam
from mixqsam.web import package
from mixqsam.web.page import RUNTIMES
from tests.conftest import draw
from tests.oracles import nearest


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    """A packed npm package with files in its folder `dist`."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def empty_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose files have other content, as if it were the published one."""
    names = [name for parts in RUNTIMES.values() for name in parts]
    path = pack(tmp_path / "runtime.tgz", {name: f"content of {name}".encode() for name in names})
    trust(path, monkeypatch)
    return path


def trust(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha512(path.read_bytes()).digest()
    monkeypatch.setattr(package, "INTEGRITY", f"sha512-{base64.b64encode(digest).decode()}")


@pytest.fixture(scope="session")
def runtime_package(get_runtime_package: Callable[[], Path]) -> Path:
    """The published package."""
    return get_runtime_package()


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("picture") / "disc.png", width=400, height=300, seed=1)


def export_page(sam: Sam, samples: list[Sample], folder: Path, package: Path, *examples: Path) -> Path:
    """The page of a model at 8 bits, rounded to nearest."""
    plan = BitPlan.uniform(sam.costs().units, UnitBits(8, 8))
    model = nearest(sam, plan, calibrate(sam, samples, observer="minmax", progress=Silent()))
    (folder / "quantized").mkdir()
    save_model(model, Manifest.of(model, plan, recipe="minmax", prompts_per_image=1), folder / "quantized")
    mixqsam.export(folder / "quantized", folder / "page", format="web", runtime_package=package, examples=examples)
    return folder / "page"


@pytest.fixture(scope="session")
def tiny_page(
    sam: Sam, samples: list[Sample], runtime_package: Path, picture: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """That of the tiny model with random weights."""
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    return export_page(sam, samples, tmp_path_factory.mktemp("tiny-page"), runtime_package, picture)


def unpack(page: Path, folder: Path) -> Path:
    """The page's model as Python loads it."""
    folder.mkdir()
    for name in (ENCODER, DECODER):
        (folder / f"{name}.onnx").write_bytes(gzip.decompress((page / f"{name}.onnx.gz").read_bytes()))
    return folder


def masks_of_python(page: Path, folder: Path, picture: Path, prompts: list[list[list[float]]]) -> list[NDArray[Any]]:
    """The masks of the page's own model in Python, for points x, y, label."""
    predictor = ExportedPredictor(unpack(page, folder), backend="onnx")
    predictor.set_image(open_image(picture))
    places = [(np.array(points)[:, :2], np.array(points)[:, 2]) for points in prompts]
    return [predictor.predict(*points, multimask_output=False)[0][0] for points in places]


def mask_of(page: Any) -> NDArray[Any]:
    """The mask that a page shows."""
    width, height = page.evaluate("[state.picture.width, state.picture.height]")
    return np.array(page.evaluate("Array.from(state.mask)"), dtype=bool).reshape(height, width)


def iou(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))
