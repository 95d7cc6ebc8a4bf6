"""A family that nobody else has is one value: adding it to the dictionary is all it takes."""

from pathlib import Path

import pytest
import torch

from mixqsam.allocation.budget import Budget
from mixqsam.artifact.store import load_model
from mixqsam.errors import ModelError
from mixqsam.families import FAMILIES
from mixqsam.families.compatibility import _largest_difference, random_model
from mixqsam.pipeline.options import AnalysisOptions, Data, Evaluation, Options, Session
from mixqsam.pipeline.quantize import run_quantization
from mixqsam.sam.load import load_sam
from mixqsam.sam.trace import trace
from tests.families.toy import TOY, ToyModel


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    with torch.no_grad():
        random_model(TOY).save_pretrained(tmp_path / "toy")
    return tmp_path / "toy"


def test_a_new_family_is_traced_and_checked(directory: Path) -> None:
    found = trace(load_sam(directory).config)
    assert [unit.name for unit in found.units][:8] == [
        f"stem.0.{tail}"
        for tail in ("look.to_q", "look.to_k", "look.to_v", "look.qk", "look.av", "look.out", "wide", "narrow")
    ]
    assert [unit.name for unit in found.units][-2:] == ["ask.av", "ask.out"]
    assert len(found.units) == 22
    assert _largest_difference(TOY) < 1e-5


def test_a_new_family_is_quantized_saved_and_loaded(directory: Path, picture_folder: Path, session: Session) -> None:
    output = directory.parent / "out"
    run_quantization(
        directory,
        Data(picture_folder, grid=2),
        budget=Budget.parse("W4A4"),
        output=output,
        options=Options(analysis=AnalysisOptions(count=2, fisher_draws=2)),
        session=session,
        evaluation=Evaluation(limit=0),
    )
    sam, _ = load_model(output)
    model = ToyModel.from_pretrained(output)
    given = torch.randn(1, 3, 48, 48), torch.tensor([[[3.0, 4.0, 30.0, 40.0]]])
    with torch.no_grad():
        assert torch.equal(model(*given).pred_masks, sam.model(*given).pred_masks)
    assert (output / "report.html").is_file()


def test_a_family_that_is_not_in_the_dictionary_is_unknown(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FAMILIES, "toy")
    with pytest.raises(ModelError, match="is a 'toy' model"):
        load_sam(directory)
