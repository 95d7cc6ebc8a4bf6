"""`quantize` measures what its allocation looks at, and nothing else."""

from pathlib import Path

import pytest

import mixqsam.analysis.measure as analysis_module
from mixqsam.allocation.budget import Budget
from mixqsam.errors import BudgetError, InputError
from mixqsam.pipeline.explore import Explorer
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, Data, Evaluation, Options, Session
from mixqsam.pipeline.quantize import Result, run_quantization
from mixqsam.pipeline.stages import read_analysis


def quantize(model: Path, pictures: Path, output: Path, session: Session, *, budget: str, options: Options) -> Result:
    return run_quantization(
        model,
        Data(pictures, grid=2),
        budget=Budget.parse(budget),
        output=output,
        options=options,
        session=session,
        evaluation=Evaluation(limit=0),
    )


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("measured what nothing looks at")


def test_fisher_runs_no_ablation(
    monkeypatch: pytest.MonkeyPatch, model_directory: Path, picture_folder: Path, tmp_path: Path, session: Session
) -> None:
    monkeypatch.setattr(analysis_module, "ablate", refuse)
    options = Options(AnalysisOptions(count=1, fisher_draws=1), AllocationOptions(utility="fisher"))
    quantize(model_directory, picture_folder, tmp_path / "out", session, budget="W4A4", options=options)
    stored = read_analysis(tmp_path / "out")
    assert (set(stored.importance), set(stored.synergy), set(stored.fisher)) == (set(), set(), {"bernoulli"})
    page = (tmp_path / "out/report.html").read_text()
    assert "<h2>Fisher KL at 4 bits</h2>" in page
    assert "<th>importance</th>" not in page
    rows = (tmp_path / "out/units.csv").read_text().splitlines()
    assert rows[0] == "unit,weight bits,activation bits,parameters,multiply-adds,Fisher KL at 4 bits,rank"
    assert len(rows) == len(stored.units) + 1
    explorer = Explorer(tmp_path / "out")
    found = explorer.solve(size=explorer.size.now, bitops=explorer.bitops.now, tied=False)
    assert "Fisher KL at 4 bits" in found["picture"]


def test_a_uniform_budget_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, model_directory: Path, picture_folder: Path, tmp_path: Path, session: Session
) -> None:
    monkeypatch.setattr(analysis_module, "run_prefix", refuse)
    monkeypatch.setattr(analysis_module, "measure_images", refuse)
    options = Options(AnalysisOptions(count=1))
    quantize(model_directory, picture_folder, tmp_path / "out", session, budget="uniform:W4A4", options=options)
    stored = read_analysis(tmp_path / "out")
    assert not stored.importance
    assert not stored.fisher
    page = (tmp_path / "out/report.html").read_text()
    assert "<th>importance</th>" not in page
    assert "importance 0.0000" not in page
    assert ">importance</text>" not in page
    assert "they were not optimised" in page
    with pytest.raises(InputError, match="out was quantized at a uniform budget, which measures nothing"):
        Explorer(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(AnalysisOptions(fisher=()), AllocationOptions(utility="fisher")), "needs --fisher bernoulli"),
        (
            Options(AnalysisOptions(fisher=("spatial",)), AllocationOptions(utility="fisher")),
            "needs --fisher bernoulli",
        ),
        (Options(AnalysisOptions(importance=False), AllocationOptions(utility="linear")), "--utility linear needs the"),
        (
            Options(AnalysisOptions(importance=False), AllocationOptions(utility="fisher", synergy_weight=0.5)),
            "--synergy-weight needs the importance",
        ),
    ],
)
def test_options_that_leave_out_what_is_needed_are_refused(
    model_directory: Path, picture_folder: Path, tmp_path: Path, session: Session, options: Options, words: str
) -> None:
    with pytest.raises(BudgetError, match=words):
        quantize(model_directory, picture_folder, tmp_path / "out", session, budget="W4A4", options=options)
    assert not (tmp_path / "out").exists()
