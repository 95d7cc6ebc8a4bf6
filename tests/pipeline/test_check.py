"""The images of the comparison are chosen, and checked, before anything is measured."""

from pathlib import Path

import pytest

from mixqsam.allocation.budget import Budget
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError
from mixqsam.evaluation.evaluate import evaluate
from mixqsam.families.family import Maps
from mixqsam.pipeline import job_stages
from mixqsam.pipeline.check import CheckImages, choose_check_images, compare_models
from mixqsam.pipeline.estimate import Speed
from mixqsam.pipeline.options import AnalysisOptions, Data, Evaluation, Options, QuantizationOptions, Session
from mixqsam.pipeline.quantize import run_quantization
from mixqsam.pipeline.stages import quantize_model
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.prompts import Prompts
from mixqsam.runtime.packed import PackedLinear
from mixqsam.sam import forward, predictor
from mixqsam.sam.forward import Frame
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor


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
    monkeypatch.setattr(job_stages, "measure_speed", lambda *_, **__: Speed(forward=100, rough=100, grids=0, ranges=0))
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
    # Three images, by a float model and two in integers that take 0.8 of its time.
    assert "check 13 min" in note


def test_quantized_models_compute_in_integers_and_each_image_is_encoded_once(
    sam: Sam, samples: list[Sample], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = BitPlan.uniform(sam.costs().units, UnitBits(8, 8))
    quantized = quantize_model(sam, plan, samples[:1], options=QuantizationOptions("minmax"), session=session).sam
    models = {"float": sam, "uniform": quantized}
    plain = evaluate(
        {name: SamPredictor(one) for name, one in models.items()}, samples, annotations=None, progress=session.progress
    )
    encoded: list[Sam] = []

    def encode(one: Sam, frame: Frame) -> Maps:
        encoded.append(one)
        return forward.encode(one, frame)

    monkeypatch.setattr(predictor, "encode", encode)
    images = CheckImages(samples, None)
    found = compare_models(models, images, [], keys={"float": "f", "uniform": "u"}, session=session)
    assert found.results["uniform"] == plain["uniform"]
    assert len(found.examples) == 2
    assert len(encoded) == 2 * len(samples)
    kinds = [{type(module) for module in one.model.modules()} for one in encoded]
    assert sum(PackedLinear in kind for kind in kinds) == len(samples)
