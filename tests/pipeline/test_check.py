"""The images of the comparison are chosen, and checked, before anything is measured."""

from pathlib import Path

import pytest

from mixqsam.allocation.budget import Budget
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError
from mixqsam.pipeline import quantize
from mixqsam.pipeline.check import choose_check_images
from mixqsam.pipeline.estimate import Speed
from mixqsam.pipeline.options import AnalysisOptions, Data, Evaluation, Options, Session
from mixqsam.pipeline.quantize import run_quantization
from mixqsam.prompts import Prompts


class Unprompted:
    """Images without a box or point."""

    annotations = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def samples(self, **_: object) -> list[Sample]:
        return [Sample(path, 64, 40, Prompts()) for path in sorted(self.folder.iterdir())]


def test_images_are_chosen_as_wished(picture_folder: Path, session: Session) -> None:
    data = Data(picture_folder)
    (used, *_), seed = data.samples(count=1, progress=session.progress), 0
    found = choose_check_images(Evaluation(), data, [used], seed=seed, session=session)
    assert found is not None
    assert len(found.samples) == 2
    assert used.path not in {sample.path for sample in found.samples}
    assert choose_check_images(Evaluation(limit=0), data, [used], seed=seed, session=session) is None
    named = choose_check_images(Evaluation(data), data, [used], seed=seed, session=session)
    assert named is not None
    assert len(named.samples) == 3


def test_images_without_prompts_are_refused(picture_folder: Path, session: Session) -> None:
    evaluation = Evaluation(Unprompted(picture_folder))
    with pytest.raises(AnnotationError, match="No image has a box or point"):
        choose_check_images(evaluation, Data(picture_folder), [], seed=0, session=session)


def test_the_announced_time_counts_the_images_that_there_are(
    model_directory: Path, picture_folder: Path, tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "measure_speed", lambda *_, **__: Speed(forward=100, grids=0, ranges=0))
    data = Data(picture_folder, grid=2)
    run_quantization(
        model_directory,
        data,
        budget=Budget.parse("W4A4"),
        output=tmp_path / "out",
        options=Options(analysis=AnalysisOptions(count=1, fisher_draws=1)),
        session=session,
        evaluation=Evaluation(data),
    )
    (note,) = [note for note in session.progress.notes if "This takes about" in note]  # type: ignore[attr-defined]
    # Three images and as many pictures, by a float model and two that take half as long again.
    assert "check 40 min" in note
