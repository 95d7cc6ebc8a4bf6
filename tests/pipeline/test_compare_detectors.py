"""A comparison on the boxes of several detectors: a column for each, and one pass of the encoder for all."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mixqsam.cli.main import app
from mixqsam.errors import AnnotationError
from mixqsam.evaluation.evaluate import evaluate_prompt_sets
from mixqsam.families.family import Maps
from mixqsam.files import Cache
from mixqsam.pipeline import comparison_scores
from mixqsam.pipeline.compare import run_comparison
from mixqsam.pipeline.options import AnalysisOptions, CompareRequest, Data, Evaluation, Options, Session
from mixqsam.progress import Silent
from mixqsam.reporting.comparison import Comparison, DetectorBoxes, DetectorFigures
from mixqsam.sam import predictor
from mixqsam.sam.forward import Frame, encode
from mixqsam.sam.load import Sam
from tests.conftest import draw

# Uniform bits need no analysis.
REQUEST = CompareRequest(
    ["minmax"], ["uniform:W8A8", "uniform:W4A4"], modes=["uniform"], options=Options(AnalysisOptions(count=2))
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Pictures with an annotated disc each, and the boxes of three detectors."""
    shape = [20, 8, 44, 8, 44, 32, 20, 32]
    common = {"category_id": 1, "bbox": [20, 8, 24, 24]}
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 40} for i in range(4)],
        "annotations": [
            {"id": i + 1, "image_id": i, **common, "area": 576, "iscrowd": 0, "segmentation": [shape]} for i in range(4)
        ],
        "categories": [{"id": 1, "name": "disc"}],
    }
    (tmp_path / "photos").mkdir()
    for i in range(4):
        draw(tmp_path / f"photos/{i}.png", width=64, height=40, seed=i)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    exact = [{"image_id": i, **common, "score": 0.9} for i in range(4)]
    wide = [{**box, "bbox": [2, 2, 60, 36], "score": 0.6} for box in exact for _ in range(2)]
    for name, found in (("exact", exact), ("wide", wide), ("one", exact[:1])):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    return tmp_path


def compare(
    place: Path,
    model: Path,
    boxes: Any,
    session: Session,
    *,
    limit: int | None = None,
    keep_embeddings: bool = False,
) -> Comparison:
    data = Data(place / "photos", place / "truth.json", boxes=boxes)
    return run_comparison(
        model,
        Data(place / "photos", place / "truth.json"),
        Evaluation(data, limit=limit),
        request=REQUEST,
        output=place / "out",
        session=session,
        overwrite=True,
        keep_embeddings=keep_embeddings,
    )


def count_evaluations(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the sets of prompts of every evaluation."""
    calls: list[list[str]] = []

    def count(predictors: Any, sets: Mapping[str, Any], **options: Any) -> Any:
        calls.append(list(sets))
        return evaluate_prompt_sets(predictors, sets, **options)

    monkeypatch.setattr(comparison_scores, "evaluate_prompt_sets", count)
    return calls


def test_every_detector_has_the_figures_of_a_run_of_its_own_from_one_pass(
    model_directory: Path, place: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_evaluations(monkeypatch)
    both = compare(place, model_directory, {"exact": place / "exact.json", "wide": place / "wide.json"}, session)
    assert calls == [["exact", "wide"]] * 2
    assert both.detectors == {"exact": DetectorBoxes(4, 4), "wide": DetectorBoxes(4, 8)}
    assert both.basis == "4 images with 12 prompts (boxes of exact, wide)"
    # Scores of one file without a name come from the same cache, and a third detector alone is evaluated.
    for name in ("exact", "wide"):
        alone = compare(place, model_directory, place / f"{name}.json", session)
        for mine, row in zip([both.float_row, *both.rows], [alone.float_row, *alone.rows], strict=True):
            assert mine.by_detector[name] == DetectorFigures(row.ap, row.mean_iou)
            assert not row.by_detector
    assert len(calls) == 2
    files = {name: place / f"{name}.json" for name in ("exact", "wide", "one")}
    three = compare(place, model_directory, files, session)
    assert calls[2:] == [["one"]] * 2
    for old, new in zip(both.rows, three.rows, strict=True):
        assert dict(list(new.by_detector.items())[:2]) == old.by_detector
        assert new.seconds >= old.seconds


def test_the_tables_have_a_column_for_each_detector(model_directory: Path, place: Path, session: Session) -> None:
    found = compare(place, model_directory, {"exact": place / "exact.json", "wide": place / "wide.json"}, session)
    row = found.rows[1]
    assert row.ap == pytest.approx(sum(one.ap or 0 for one in row.by_detector.values()) / 2)
    exact, wide = (f"{one.ap:.1f} / {one.mean_iou:.3f}" for one in row.by_detector.values())
    markdown = (place / "out/comparison.md").read_text()
    assert "exact 4 boxes on 4 images, wide 8 boxes on 4 images" in markdown
    section = markdown[markdown.index("## uniform:W4A4") :]
    assert "| recipe | bits | exact | wide |" in section
    assert f"| minmax | uniform | {exact} | {wide} |" in section
    table = list(csv.DictReader(io.StringIO((place / "out/comparison.csv").read_text())))
    assert float(table[2]["ap exact"]) == row.by_detector["exact"].ap
    assert float(table[2]["mean_iou wide"]) == row.by_detector["wide"].mean_iou
    assert "by_detector" not in table[2]
    latex = (place / "out/comparison.tex").read_text()
    assert r" &  & \multicolumn{2}{c}{uniform:W8A8} & \multicolumn{2}{c}{uniform:W4A4} \\" in latex
    assert r"\cmidrule(lr){3-4}\cmidrule(lr){5-6}" in latex
    assert r"Method & Bits & exact & wide & exact & wide \\" in latex
    stored = json.loads((place / "out/comparison.json").read_text())
    assert stored == json.loads(json.dumps(found.to_json()))
    assert stored["rows"][1]["by_detector"]["wide"]["ap"] == row.by_detector["wide"].ap
    assert "mean over detectors" in (place / "out/comparison.svg").read_text()


def test_kept_embeddings_give_the_same_figures_from_one_pass_of_the_float_model(
    model_directory: Path, place: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"exact": place / "exact.json", "wide": place / "wide.json"}
    encoded: list[str] = []

    def count(sam: Sam, frame: Frame) -> Maps:
        encoded.append(sam.fingerprint)
        return encode(sam, frame)

    monkeypatch.setattr(predictor, "encode", count)
    fast = compare(place, model_directory, files, session, keep_embeddings=True)
    # The float model and two quantized ones.
    assert sorted(encoded.count(fingerprint) for fingerprint in set(encoded)) == [4, 4, 4]
    plain = compare(place, model_directory, files, Session(Cache(place / "other"), Silent()))
    assert [replace(row, seconds=0.0) for row in fast.rows] == [replace(row, seconds=0.0) for row in plain.rows]
    assert len(encoded) == 3 * 4 + 4 * 4


def test_detectors_are_judged_on_the_same_drawn_images_and_one_without_a_box_there_is_named(
    model_directory: Path, place: Path, session: Session
) -> None:
    files = {"exact": place / "exact.json", "wide": place / "wide.json"}
    found = compare(place, model_directory, files, session, limit=2)
    assert found.detectors == {"exact": DetectorBoxes(2, 2), "wide": DetectorBoxes(2, 4)}
    assert found.evaluation == 2
    (place / "one.json").write_text(
        json.dumps([{"image_id": 3, "category_id": 1, "bbox": [90, 90, 2, 2], "score": 0.9}])
    )
    with pytest.raises(AnnotationError, match=r"one\.json: none of its boxes is on one of the 4 images.*leave one out"):
        compare(place, model_directory, {**files, "one": place / "one.json"}, session)
    with pytest.raises(AnnotationError, match=r"none\.json does not exist; expected a COCO-results file"):
        compare(place, model_directory, {**files, "one": place / "none.json"}, session)


def test_the_command_takes_several_files_and_files_of_options_too(
    model_directory: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXQSAM_CACHE", str(place / "cache"))
    monkeypatch.chdir(place)
    (place / "run.toml").write_text(
        f"model = '{model_directory}'\nimages = 'photos'\nannotations = 'truth.json'\neval-images = 'photos'\n"
        "eval-annotations = 'truth.json'\nrecipes = ['minmax']\nbudgets = ['uniform:W8A8']\nmodes = ['uniform']\n"
        "count = 2\noutput = 'out'\noverwrite = true\n[eval-boxes]\nwide = 'wide.json'\n'the exact' = 'exact.json'\n"
    )
    done = CliRunner().invoke(app, ["compare", "--config", "run.toml"])
    assert done.exit_code == 0, done.output
    assert "AP, the exact" in done.output
    # `quantize` takes one file, so the suggested command names the first.
    assert f"--eval-boxes {place}/wide.json" in done.output
    assert f"{place}/exact.json" not in done.output
    given = [part for name in ("wide", "exact") for part in ("--eval-boxes", f"{name}={name}.json")]
    done = CliRunner().invoke(app, ["compare", "--config", "run.toml", "--json", *given])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert list(answer["detectors"]) == ["wide", "exact"]
    refused = CliRunner().invoke(
        app, ["compare", "--config", "run.toml", "--eval-boxes", "a.json", "--eval-boxes", "b"]
    )
    assert refused.exit_code == 2
    assert "--eval-boxes a.json: each of several files of boxes needs a name" in " ".join(refused.output.split())
