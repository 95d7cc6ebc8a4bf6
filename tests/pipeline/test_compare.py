import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mixqsam.data.samples import Sample
from mixqsam.errors import BudgetError, InputError, OutputError
from mixqsam.pipeline import compare, comparison_scores
from mixqsam.pipeline.compare import run_comparison
from mixqsam.pipeline.estimate import Speed
from mixqsam.pipeline.options import (
    AllocationOptions,
    AnalysisOptions,
    CompareRequest,
    Evaluation,
    Options,
    QuantizationOptions,
    Session,
)
from mixqsam.pipeline.stages import quantize_model
from mixqsam.progress import Progress, Silent
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.reporting.comparison import Comparison
from tests.conftest import draw

OPTIONS = Options(
    analysis=AnalysisOptions(count=4, fisher_draws=4),
    quantization=QuantizationOptions(reconstruction=ReconstructionOptions(iterations=5)),
)


class Pictures:
    """Drawn pictures with boxes, where a comparison takes a user's folder."""

    annotations = None

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def samples(self, *, count: int | None, progress: Progress, seed: int | None = None) -> list[Sample]:
        del count, progress, seed
        return self._samples


@pytest.fixture
def six(tmp_path: Path, samples: list[Sample]) -> Pictures:
    (tmp_path / "six").mkdir()
    paths = [draw(tmp_path / f"six/{i}.png", width=64, height=40, seed=i) for i in range(6)]
    return Pictures([Sample(path, 64, 40, samples[0].prompts, image_id=i) for i, path in enumerate(paths)])


def run(model: Path, pictures: Pictures, output: Path, session: Session, **changes: object) -> Comparison:
    request = CompareRequest(**{"recipes": ["minmax", "qdrop"], "budgets": ["W4A4"], "options": OPTIONS, **changes})  # type: ignore[arg-type]
    return run_comparison(
        model, pictures, Evaluation(), request=request, output=output, session=session, overwrite=True
    )


def test_a_comparison_has_a_row_for_everything_asked_for(
    model_directory: Path, six: Pictures, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "measure_speed", lambda *_, **__: Speed(forward=100, rough=100, grids=0, ranges=0))
    out = tmp_path / "out"
    found = run(model_directory, six, out, session, budgets=["W4A4", "44kB"])
    assert (found.calibration, found.evaluation) == (4, 2)
    # Fewer images than these would not be worth a hint.
    (note,) = [note for note in session.progress.notes if "This takes about" in note]  # type: ignore[attr-defined]
    assert note.endswith("Shorter: fewer --recipes or budgets.")
    assert found.basis.startswith(f"2 images with {found.prompts} prompts (")
    assert f"quality measured on {found.basis}." in (out / "comparison.md").read_text()
    assert [(r.recipe, r.budget, r.mode) for r in found.rows] == [
        (recipe, budget, mode)
        for recipe in ("minmax", "qdrop")
        for budget in ("W4A4", "44kB")
        for mode in ("uniform", "mixed")
    ]
    by = {(r.recipe, r.budget, r.mode): r for r in found.rows}
    uniform, mixed = by["qdrop", "W4A4", "uniform"], by["qdrop", "W4A4", "mixed"]
    assert uniform.bits == "W4A4"
    # The largest uniform model that fits a budget in bytes; activations cost nothing there.
    assert by["qdrop", "44kB", "uniform"].bits == "W2A16"
    assert mixed.size <= uniform.size
    assert mixed.bitops <= uniform.bitops
    assert 0 <= mixed.mean_iou <= 1
    assert mixed.ap is None
    assert found.float_row.mean_iou == 1
    assert found.float_row.size > uniform.size
    assert {p.name for p in out.iterdir()} == {
        f"comparison.{kind}" for kind in ("md", "csv", "tex", "json", "svg", "png")
    }
    table = list(csv.DictReader(io.StringIO((out / "comparison.csv").read_text())))
    assert [row["recipe"] for row in table] == ["float", *(r.recipe for r in found.rows)]
    assert float(table[1]["mean_iou"]) == found.rows[0].mean_iou
    assert json.loads((out / "comparison.json").read_text()) == json.loads(json.dumps(found.to_json()))
    markdown = (out / "comparison.md").read_text()
    assert "| qdrop | mixed |" in markdown
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "minmax, uniform" in (out / "comparison.svg").read_text()


def test_a_uniform_budget_gives_one_row_that_keeps_fixed_bits(
    model_directory: Path, six: Pictures, session: Session, tmp_path: Path
) -> None:
    options = replace(OPTIONS, allocation=AllocationOptions(keep=("neck.*=8",)))
    found = run(
        model_directory, six, tmp_path / "out", session, recipes=["minmax"], budgets=["uniform:W4A4"], options=options
    )
    assert [(row.budget, row.mode, row.bits) for row in found.rows] == [("uniform:W4A4", "uniform", "W4A4")]
    plain = run(model_directory, six, tmp_path / "out", session, recipes=["minmax"], budgets=["uniform:W4A4"])
    assert found.rows[0].size > plain.rows[0].size
    # The uniform rows of other budgets keep them, too.
    mixed = run(model_directory, six, tmp_path / "out", session, recipes=["minmax"], budgets=["W6A6"], options=options)
    assert [row.mode for row in mixed.rows] == ["uniform", "mixed"]
    assert mixed.rows[0].size <= found.rows[0].size * 2
    with pytest.raises(InputError, match="give uniform bits only"):
        run(model_directory, six, tmp_path / "out", session, budgets=["uniform:W4A4"], modes=["mixed"])


def test_nothing_is_computed_twice(
    model_directory: Path, six: Pictures, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(model_directory, six, tmp_path / "out", session)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    for name in ("quantize_model", "evaluate_prompt_sets"):
        monkeypatch.setattr(comparison_scores, name, refuse)
    assert run(model_directory, six, tmp_path / "again", session).rows == first.rows
    # Another budget is another model.
    with pytest.raises(AssertionError, match="computed again"):
        run(model_directory, six, tmp_path / "again", session, budgets=["W5A5"])


def test_a_stopped_comparison_keeps_its_rows_and_leaves_no_output(
    model_directory: Path, six: Pictures, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def stop_at_the_third(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return quantize_model(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(comparison_scores, "quantize_model", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(model_directory, six, tmp_path / "out", session)
    assert not (tmp_path / "out").exists()
    found = run(model_directory, six, tmp_path / "out", session)
    assert len(found.rows) == 4
    # Two were done before; the third was begun twice.
    assert len(calls) == 3 + 2


def test_annotated_images_are_scored(coco: Path, session: Session, tmp_path: Path) -> None:
    from mixqsam.pipeline.options import Data

    annotations = coco / "annotations/instances_val2017.json"
    request = CompareRequest(
        ["minmax"], ["W8A8"], modes=["uniform"], options=Options(AnalysisOptions(count=2, fisher_draws=2))
    )
    data = Data(coco / "val2017", annotations)
    evaluation = Evaluation(data, limit=3)
    found = run_comparison("sam-tiny", data, evaluation, request=request, output=tmp_path / "out", session=session)
    assert found.rows[0].ap is not None
    assert found.rows[0].truth_iou is not None
    assert found.evaluation == 3
    assert found.rows[0].mean_iou > 0.8


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"recipes": ["omse", "best"]}, InputError, "'best' is unknown; choose minmax"),
        ({"recipes": []}, InputError, "nothing to compare"),
        ({"budgets": ["W1A1"]}, BudgetError, "W1A1"),
        ({"options": Options(AnalysisOptions(count=3))}, InputError, "qdrop needs at least 4 calibration images"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    model_directory: Path,
    six: Pictures,
    session: Session,
    tmp_path: Path,
    changes: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        run(model_directory, six, tmp_path / "out", session, **changes)
    assert not (tmp_path / "out").exists()
    assert not session.cache.root.exists() or not list(session.cache.root.glob("ablation-*"))


def test_a_folder_of_something_else_is_not_replaced(
    model_directory: Path, six: Pictures, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="was not made by mixqsam"):
        run(model_directory, six, tmp_path / "out", session)


def test_where_no_image_is_left_over_the_report_says_so(
    model_directory: Path, six: Pictures, session: Session, tmp_path: Path
) -> None:
    options = Options(AnalysisOptions(count=6, fisher_draws=6))
    found = run(model_directory, six, tmp_path / "out", session, recipes=["minmax"], options=options)
    assert found.evaluation == 6
    assert isinstance(session.progress, Silent)
    assert any("so the evaluation uses them, too" in note for note in session.progress.notes)
