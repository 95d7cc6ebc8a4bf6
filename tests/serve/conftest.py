"""A quantized tiny model, as the page serves it."""

from pathlib import Path

import pytest
from benchmarks.tiny import quantize

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="session")
def quantized(model_directory: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize(model_directory, picture_folder, tmp_path_factory.mktemp("served") / "out")
