import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mixqsam.data.coco import annotated_samples
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError, ImageError, InputError
from mixqsam.evaluation.coco import Truth, mask_results
from mixqsam.evaluation.evaluate import evaluate, evaluate_prompt_sets
from mixqsam.evaluation.image_records import RecordCache
from mixqsam.evaluation.record import mask_ious
from mixqsam.files import Cache
from mixqsam.prediction import Prediction
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor
from tests.conftest import draw


def prediction(masks: np.ndarray, scores: np.ndarray) -> Prediction:
    return Prediction(
        masks[:, None], scores[:, None].astype(np.float32), np.zeros((len(masks), 1, 8, 8), np.float32), (8, 8)
    )


def test_predictor_gives_masks_of_the_images_size(sam: Sam, samples: list[Sample]) -> None:
    predictor = SamPredictor(sam)
    with pytest.raises(InputError, match="No image has been set"):
        predictor.segment(samples[0].prompts)
    for sample in samples:
        predictor.set_image(sample.open())
        found = predictor.segment(sample.prompts, multimask=True)
        assert found.masks.shape == (len(sample.prompts), 3, sample.height, sample.width)
        assert found.masks.dtype == np.bool_
    with pytest.raises(InputError, match="no prompts"):
        predictor.segment(Prompts())


def test_predictor_equals_transformers_processor(samples: list[Sample]) -> None:
    from transformers import SamModel

    sam = load_sam("sam-tiny")
    reference = SamModel.from_pretrained(str(Path(__file__).parents[2] / "src/mixqsam/assets/sam-tiny"))
    sample = samples[0]
    image = sample.open()
    inputs = sam.processor(images=image, return_tensors="pt")
    assert sample.prompts.boxes is not None
    boxes = sample.prompts.boxes * (inputs["reshaped_input_sizes"][0][1].item() / image.width)
    out = reference(
        inputs["pixel_values"], input_boxes=inputs["pixel_values"].new_tensor(boxes)[None], multimask_output=False
    )
    (expected,) = sam.processor.post_process_masks(
        out.pred_masks.detach(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    predictor = SamPredictor(sam)
    predictor.set_image(np.asarray(image))
    assert (predictor.segment(sample.prompts).masks == expected.numpy()).mean() > 0.999


def test_a_model_is_faithful_to_itself_and_less_to_another(
    sam: Sam, samples: list[Sample], model_directory: Path
) -> None:
    other = load_sam(model_directory)
    other.model.vision_encoder.neck.layer_norm2.weight.mul_(-1)
    predictors = {"float": SamPredictor(sam), "same": SamPredictor(sam), "other": SamPredictor(other)}
    reports = evaluate(predictors, samples, annotations=None, progress=Silent())
    assert reports["float"].fidelity is None
    same, different = reports["same"].fidelity, reports["other"].fidelity
    assert same is not None
    assert different is not None
    assert same.mean_iou == 1
    assert same.kl == {"bernoulli": 0, "spatial": pytest.approx(0, abs=1e-9)}
    assert different.mean_iou < 1
    assert different.kl["bernoulli"] > 0
    assert (reports["float"].images, reports["float"].prompts) == (2, 3)


def test_the_best_of_three_masks_is_the_one_with_the_highest_score(sam: Sam, samples: list[Sample]) -> None:
    predictor = SamPredictor(sam)
    predictor.set_image(samples[0].open())
    three = predictor.segment(samples[0].prompts, multimask=True)
    best = three.best()
    assert best.masks.shape == (2, 1, samples[0].height, samples[0].width)
    for row in range(2):
        chosen = int(three.scores[row].argmax())
        assert best.scores[row, 0] == three.scores[row].max()
        assert (best.masks[row, 0] == three.masks[row, chosen]).all()
        assert (best.logits[row, 0] == three.logits[row, chosen]).all()
    reports = evaluate(
        {"a": predictor, "b": predictor}, samples, annotations=None, progress=Silent(), best_of_three=True
    )
    assert reports["b"].fidelity is not None
    assert reports["b"].fidelity.mean_iou == 1


def test_an_image_is_encoded_once_for_the_boxes_of_all_detectors(
    sam: Sam, samples: list[Sample], model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load_sam(model_directory)
    other.model.vision_encoder.neck.layer_norm2.weight.mul_(-1)
    predictors = {"float": SamPredictor(sam), "other": SamPredictor(other)}
    moved = [replace(one, prompts=Prompts(boxes=np.asarray(one.prompts.boxes) + 3)) for one in samples]
    # One detector finds nothing in the first image.
    sets = {"few": [replace(samples[0], prompts=Prompts(boxes=np.empty((0, 4)))), samples[1]], "many": moved}
    expected = {name: evaluate(predictors, one, annotations=None, progress=Silent()) for name, one in sets.items()}
    encoded: list[object] = []
    encode = SamPredictor.encode_image

    def count(predictor: SamPredictor, image: Image.Image) -> None:
        encoded.append(predictor)
        encode(predictor, image)

    monkeypatch.setattr(SamPredictor, "encode_image", count)
    assert evaluate_prompt_sets(predictors, sets, annotations=None, progress=Silent()) == expected
    assert [encoded.count(predictor) for predictor in predictors.values()] == [len(samples)] * 2


def test_a_detector_without_a_box_or_a_readable_image_is_named(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no")
    bad = Sample(tmp_path / "bad.png", 10, 10, samples[0].prompts)
    empty = replace(samples[0], prompts=Prompts(boxes=np.empty((0, 4))))
    for others, error, words in (
        ([empty], AnnotationError, "yolox: no image has a box"),
        ([bad], ImageError, "yolox: none of the images with its prompts can be read"),
    ):
        with pytest.raises(error, match=words):
            evaluate_prompt_sets(
                {"float": SamPredictor(sam)},
                {"dino": samples, "yolox": others},
                annotations=None,
                progress=Silent(),
            )


def test_models_of_different_input_sizes_are_not_compared(sam: Sam, samples: list[Sample]) -> None:
    predictors = {"float": SamPredictor(sam), "larger": SamPredictor(load_sam("sam-tiny"))}
    with pytest.raises(InputError, match="cannot be compared"):
        evaluate(predictors, samples, annotations=None, progress=Silent())


def test_embeddings_are_kept_on_request(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    plain, kept = SamPredictor(sam), SamPredictor(sam, embeddings=tmp_path)
    for _ in range(2):
        for sample in samples:
            for predictor in (plain, kept):
                predictor.set_image(sample.open())
            assert (plain.segment(sample.prompts).logits == kept.segment(sample.prompts).logits).all()
    assert len(list(tmp_path.iterdir())) == 2
    # The encoder is not asked again.
    handle = sam.model.vision_encoder.register_forward_hook(lambda m, i, o: pytest.fail("encoded again"))
    kept.set_image(samples[0].open())
    handle.remove()
    # A damaged file is made again.
    next(iter(tmp_path.iterdir())).write_text("x")
    for sample in samples:
        kept.set_image(sample.open())


def one_annotation(folder: Path, segmentation: object) -> tuple[Path, Sample]:
    """An annotation file with one instance, and its sample."""
    draw(folder / "a.png", width=20, height=10, seed=1)
    annotation = {"id": 4, "image_id": 1, "category_id": 1, "bbox": [2, 2, 6, 6], "area": 36, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
        "annotations": [{**annotation, "segmentation": segmentation}],
        "categories": [{"id": 1, "name": "x"}],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    (sample,) = annotated_samples(path, images=folder)
    return path, sample


GOOD = [[2, 2, 8, 2, 8, 8, 2, 8]]


@pytest.mark.parametrize(
    ("segmentation", "ap"),
    [(GOOD, 100), ([[2, 2, 8, 2, 8, 2, 2, 2]], 0), ([[2, 2], *GOOD], 100)],
)
def test_a_polygon_without_area_is_an_object_that_nothing_finds(
    tmp_path: Path, segmentation: object, ap: float
) -> None:
    path, sample = one_annotation(tmp_path, segmentation)
    truth = Truth(path)
    square = np.zeros((1, 10, 20), bool)
    square[:, 2:8, 2:8] = True
    assert truth.score(mask_results(sample, prediction(square, np.array([0.9])))).ap == ap
    masks = truth.masks(sample)
    assert masks is not None
    assert masks.shape == (1, 10, 20)
    assert bool(masks.any()) == bool(ap)


@pytest.mark.parametrize(
    "segmentation",
    [None, [], [[]], {}, "", [[2, 2, 8, 8]], [[1, 2, 3]], {"size": [10, 20], "counts": [200]}, "missing"],
)
def test_a_file_without_a_mask_is_refused(tmp_path: Path, segmentation: object) -> None:
    path, _ = one_annotation(tmp_path, segmentation)
    if segmentation == "missing":
        content = json.loads(path.read_text())
        del content["annotations"][0]["segmentation"]
        path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"instances.json holds no masks: all of its 1 .*as --boxes"):
        Truth(path)


@pytest.mark.parametrize("segmentation", [7, [["a", 1, 2, 3, 4, 5]], {"size": [5, 5], "counts": [25]}])
def test_a_segmentation_that_is_none_is_refused(tmp_path: Path, segmentation: object) -> None:
    path, sample = one_annotation(tmp_path, segmentation)
    with pytest.raises(
        AnnotationError, match=r"instances.json cannot be scored against: the segmentation of annotation 4"
    ):
        Truth(path).masks(sample)


def test_kept_records_do_not_serve_other_scores_or_categories(sam: Sam, tmp_path: Path) -> None:
    path, sample = one_annotation(tmp_path, GOOD)
    kept = RecordCache(Cache(tmp_path / "cache"), {"float": "k"})

    def results_of(one: Sample) -> list[dict[str, Any]]:
        evaluate({"float": SamPredictor(sam)}, [one], annotations=path, progress=Silent(), record_cache=kept)
        record = kept.get("float", one)
        assert record is not None
        return list(record["results"])

    first = replace(sample, scores=(0.9,), annotation_ids=())
    weaker, other = replace(first, scores=(0.1,)), replace(first, categories=(7,))
    (a,), (b,), (c,) = results_of(first), results_of(weaker), results_of(other)
    assert a["score"] == pytest.approx(9 * b["score"])
    assert (a["category_id"], c["category_id"]) == (1, 7)


def test_no_results_at_all_score_nothing(tmp_path: Path) -> None:
    path, _ = one_annotation(tmp_path, GOOD)
    assert Truth(path).score([]).ap == 0


def test_iou_by_hand() -> None:
    a = np.zeros((3, 2, 2), bool)
    b = np.zeros((3, 2, 2), bool)
    a[0, 0] = True
    b[0, :, 0] = True
    a[1, 0, 0] = True
    assert mask_ious(a, b).tolist() == [1 / 3, 0, 1]


def test_broken_images_are_skipped_and_counted(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no")
    bad = Sample(tmp_path / "bad.png", 10, 10, samples[0].prompts)
    progress = Silent()
    reports = evaluate({"float": SamPredictor(sam)}, [samples[0], bad], annotations=None, progress=progress)
    assert reports["float"].images == 1
    assert "Skipped 1 of 2 images" in progress.notes[0]
    with pytest.raises(ImageError, match="None of the images"):
        evaluate({"float": SamPredictor(sam)}, [bad], annotations=None, progress=progress)


def test_true_masks_have_an_ap_of_100_and_the_evaluator_equals_pycocotools(coco: Path) -> None:
    path = coco / "annotations/instances_val2017.json"
    truth = COCO(str(path))
    samples = annotated_samples(path, images=coco / "val2017")
    rng = np.random.default_rng(0)
    perfect, noisy, compared = [], [], 0
    for sample in samples:
        found = [a for a in truth.loadAnns(truth.getAnnIds(sample.image_id, iscrowd=False)) if min(a["bbox"][2:]) > 0]
        if not found:
            continue
        masks = np.stack([truth.annToMask(a) for a in found]).astype(bool)
        if compared < 2:
            ours = Truth(path).masks(sample)
            assert ours is not None
            assert np.array_equal(ours, masks)
            compared += 1
        perfect += mask_results(sample, prediction(masks, np.ones(len(masks))))
        shifted = np.roll(masks, rng.integers(0, 12, 2), axis=(1, 2))
        noisy += mask_results(sample, prediction(shifted, rng.random(len(masks))))
    assert Truth(path).score(perfect).ap == pytest.approx(100, abs=1e-6)
    few = [s.image_id for s in samples[:10]]
    some = [r for r in perfect if r["image_id"] in few]
    assert Truth(path).score(some, images=few).ap == pytest.approx(100, abs=1e-6)
    assert Truth(path).score(some).ap < 50
    scores = Truth(path).score(noisy)
    reference = COCOeval(truth, truth.loadRes(noisy), "segm")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    figures = [scores.ap, scores.ap50, scores.ap75, scores.small, scores.medium, scores.large]
    assert figures == pytest.approx([100 * v for v in reference.stats[:6]], abs=1e-8)
    assert 5 < scores.ap < 95


def test_detectors_scores_multiply(samples: list[Sample]) -> None:
    from dataclasses import replace

    masks = np.ones((2, 40, 64), bool)
    scored = replace(samples[0], scores=(0.5, 0.25))
    results = mask_results(scored, prediction(masks, np.array([0.8, 0.4])))
    assert [r["score"] for r in results] == pytest.approx([0.4, 0.1])
    assert [r["category_id"] for r in results] == [1, 1]


def test_annotations_that_cannot_be_scored_against(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": [{"id": 1}], "categories": []}))
    with pytest.raises(AnnotationError, match="images.0.file_name: Field required"):
        Truth(path).score([])


def test_overlay_draws_mask_and_prompt() -> None:
    from mixqsam.reporting.overlay import draw_overlay, mask_image, side_by_side

    image = Image.new("RGB", (60, 40), "white")
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 10:30, 10:30] = True
    drawn = draw_overlay(image, mask, Prompts(boxes=np.array([[5.0, 5, 50, 35]])))
    assert drawn.getpixel((20, 20)) != (255, 255, 255)
    assert drawn.getpixel((55, 2)) == (255, 255, 255)
    assert drawn.getpixel((5, 20)) == (0, 114, 178)
    assert np.asarray(mask_image(mask[0])).sum() == 255 * 400
    assert side_by_side({"a": image, "b": image}, height=40).size == (128, 68)
