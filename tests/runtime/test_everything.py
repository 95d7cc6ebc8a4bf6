"""Segment everything with quantized models: prompts in batches, and the filters of masks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mixqsam.artifact.manifest import Manifest
from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import BACKENDS
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.prediction import Prediction, Predictor
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts, point_grid
from mixqsam.runtime.build import integer_model
from mixqsam.sam.automatic import Automatic, find_masks
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor
from tests.oracles import nearest


def quantize(sam: Sam, samples: list[Sample], *, bits: int) -> tuple[Sam, Manifest]:
    plan = BitPlan.uniform(sam.costs().units, UnitBits(bits, bits))
    model = nearest(sam, plan, calibrate(sam, samples, observer="minmax", progress=Silent()))
    return model, Manifest.of(model, plan, recipe="minmax", prompts_per_image=1)


def make_predictor(model: Sam, manifest: Manifest, backend: str, folder: Path) -> Predictor:
    if backend == "torch":
        return SamPredictor(integer_model(model))
    pytest.importorskip("onnx")
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    from mixqsam.exporting.files import ExportOptions, export

    export(model, manifest, folder, backend=BACKENDS[backend], options=ExportOptions())
    return ExportedPredictor(folder, backend=backend, threads=1)


def segment_alone(predictor: Predictor, points: Prompts) -> Iterator[Prediction]:
    for index in range(len(points)):
        yield predictor.segment(points.take(np.array([index])), multimask=True)


@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino"])
def test_a_batch_of_points_gives_the_masks_of_each_point_alone(
    sam: Sam, samples: list[Sample], backend: str, tmp_path: Path
) -> None:
    predictor = make_predictor(*quantize(sam, samples, bits=8), backend, tmp_path)
    predictor.set_image(samples[0].open())
    points = point_grid(width=64, height=40, side=8)
    batch, alone = predictor.segment(points, multimask=True), list(segment_alone(predictor, points))
    assert batch.masks.shape == (64, 3, 40, 64)
    # The random model follows its prompts little, and much more than two ways to compute a prompt differ.
    assert float(np.ptp(batch.logits, axis=0).max()) > 0.01
    np.testing.assert_array_equal(batch.masks, np.concatenate([one.masks for one in alone]))
    np.testing.assert_allclose(batch.scores, np.concatenate([one.scores for one in alone]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(batch.logits, np.concatenate([one.logits for one in alone]), rtol=0, atol=1e-5)
    proposed, chosen = predictor.propose(points), np.random.default_rng(0).random((64, 3)) < 0.2
    np.testing.assert_array_equal(proposed.logits, batch.logits)
    np.testing.assert_array_equal(proposed.scores, batch.scores)
    assert proposed.visible == batch.visible
    np.testing.assert_array_equal(proposed.draw(chosen), batch.masks[chosen])
    assert proposed.draw(np.zeros((64, 3), bool)).shape == (0, 40, 64)


def test_filters_decide_at_8_bits_as_in_float_for_almost_all_masks(samples: list[Sample]) -> None:
    sam = load_sam("sam-tiny")
    quantized, _ = quantize(sam, samples, bits=8)
    options = Automatic(side=8, predicted_iou=0.3, stability=0.5)
    for sample in samples:
        points = point_grid(width=sample.width, height=sample.height, side=options.side)
        kept = []
        for model in (sam, quantized):
            predictor = SamPredictor(model)
            predictor.set_image(sample.open())
            found = find_masks(predictor, points, options)
            kept.append({(*point, choice) for point, choice in zip(found.points.tolist(), found.choices, strict=True)})
        of_both, of_one = len(kept[0] & kept[1]), len(kept[0] ^ kept[1])
        assert 0.1 < of_both / (3 * len(points)) < 0.9
        assert of_one / (3 * len(points)) < 0.05
