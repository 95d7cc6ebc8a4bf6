"""A quantized tiny model, as the page serves it."""

from pathlib import Path

import pytest

from mixqsam.pipeline.options import AnalysisOptions, Checking, Data, Options, Session
from mixqsam.pipeline.quantize import run_quantization

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="session")
def quantized(model_directory: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "out"
    run_quantization(
        model_directory,
        Data(picture_folder, grid=2),
        budget="W4A4",
        output=folder,
        options=Options(analysis=AnalysisOptions(count=2)),
        session=Session(),
        checking=Checking(limit=0),
    )
    return folder
