"""A quantized tiny model, as the page serves it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.tiny import quantize

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from starlette.testclient import TestClient

from mixqsam.serving.app import make_app
from mixqsam.serving.limits import Limits
from mixqsam.serving.workspace import Workspace, collect_models

OWN = {"x-mixqsam": "1"}
LIMITS = Limits(upload=60_000, request=2_000, side=100, images=2, prompts=4, grid=4, tried=1, seconds=0.3)


@pytest.fixture(scope="session")
def quantized(model_directory: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize(model_directory, picture_folder, tmp_path_factory.mktemp("served") / "out")


@pytest.fixture(scope="module")
def client(quantized: Path, picture_folder: Path) -> Iterator[TestClient]:
    samples = {"a.png": picture_folder / "a.png", "b.jpg": picture_folder / "b.jpg"}
    workspace = Workspace(collect_models([str(quantized)]), samples, limits=LIMITS)
    with TestClient(make_app(workspace, hosts=["testserver"])) as one:
        yield one


def segment(client: TestClient, **value: Any) -> Any:
    body = {"models": ["float", "out"], "image": "a.png", "box": [5, 5, 40, 30], **value}
    return client.post("/api/segment", json=body, headers=OWN)
