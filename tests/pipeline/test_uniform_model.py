"""The uniform model of the comparison is made where that is quick, or where it is asked for."""

import json
from pathlib import Path

import pytest

from mixqsam.allocation.budget import Budget
from mixqsam.pipeline import uniform_model
from mixqsam.pipeline.options import AnalysisOptions, Data, Evaluation, Options, QuantizationOptions, Session
from mixqsam.pipeline.quantize import run_quantization
from mixqsam.pipeline.uniform_model import makes_uniform
from mixqsam.quantization.recipes import RECIPES
from mixqsam.sam.load import Sam


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model counts as a large one."""
    monkeypatch.setattr(uniform_model, "_MOST_WEIGHTS", 0)


def test_it_is_made_where_that_is_quick(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    units = sam.costs().units

    def made(recipe: str, wanted: bool | None = None) -> bool:
        return makes_uniform(units, recipe=RECIPES[recipe], wanted=wanted)

    assert {name: made(name) for name in ("omse", "compensated", "qdrop")} == {
        "omse": True,
        "compensated": True,
        "qdrop": False,
    }
    monkeypatch.setattr(uniform_model, "_MOST_WEIGHTS", 0)
    assert not made("compensated")
    assert made("omse")
    assert made("qdrop", wanted=True)
    assert not made("omse", wanted=False)


@pytest.mark.usefixtures("large")
def test_a_job_says_that_it_leaves_it_out_and_its_files_read_well_without(
    model_directory: Path, picture_folder: Path, tmp_path: Path, session: Session
) -> None:
    data, output = Data(picture_folder, grid=2), tmp_path / "out"
    result = run_quantization(
        model_directory,
        data,
        budget=Budget.parse("W4A4"),
        output=output,
        options=Options(AnalysisOptions(count=1, fisher_draws=1), quantization=QuantizationOptions("compensated")),
        session=session,
        evaluation=Evaluation(data, limit=1),
    )
    assert set(result.check) == {"float", "mixed"}
    assert any("--uniform makes it" in note for note in session.progress.notes)  # type: ignore[attr-defined]
    assert "mixqsam quantize --uniform" in (output / "report.html").read_text()
    for name in ("summary.md", "README.md"):
        text = (output / name).read_text()
        assert "The uniform model was not made; `mixqsam quantize --uniform` makes it, too." in text
        assert "None" not in text
    made = json.loads((output / "run.json").read_text())["models"]
    assert made["uniform"]["mean_iou"] is None
    assert made["uniform"]["size"] > 0


@pytest.mark.usefixtures("large")
def test_a_job_makes_it_where_it_is_asked_for(
    model_directory: Path, picture_folder: Path, tmp_path: Path, session: Session
) -> None:
    data = Data(picture_folder, grid=2)
    result = run_quantization(
        model_directory,
        data,
        budget=Budget.parse("W4A4"),
        output=tmp_path / "out",
        options=Options(AnalysisOptions(count=1, fisher_draws=1), uniform=True),
        session=session,
        evaluation=Evaluation(data, limit=1),
    )
    assert set(result.check) == {"float", "uniform", "mixed"}
    for name in ("summary.md", "README.md", "report.html"):
        assert "was not made" not in (tmp_path / "out" / name).read_text()
    assert not any("--uniform" in note for note in session.progress.notes)  # type: ignore[attr-defined]


def test_a_job_with_uniform_bits_says_that_it_has_no_other_model_to_make(
    model_directory: Path, picture_folder: Path, tmp_path: Path, session: Session
) -> None:
    result = run_quantization(
        model_directory,
        Data(picture_folder, grid=2),
        budget=Budget.parse("uniform:W4A4"),
        output=tmp_path / "out",
        options=Options(AnalysisOptions(count=1), quantization=QuantizationOptions("minmax"), uniform=True),
        session=session,
        evaluation=Evaluation(limit=0),
    )
    assert result.allocation is result.uniform
    assert any("--uniform has no effect" in note for note in session.progress.notes)  # type: ignore[attr-defined]
