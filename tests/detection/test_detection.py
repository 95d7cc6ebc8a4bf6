from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    YolosConfig,
    YolosForObjectDetection,
)
from transformers.models.deformable_detr.image_processing_pil_deformable_detr import DeformableDetrImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from mixqsam.boxes import Detections, Selection, box_ious, select, suppress
from mixqsam.detection.detector import load_detector, match_categories
from mixqsam.errors import AnnotationError, ModelError
from tests.conftest import DETECTOR_NAMES as NAMES

pytestmark = pytest.mark.versions


@pytest.fixture
def picture(picture_folder: Path) -> Image.Image:
    return Image.open(picture_folder / "a.png").convert("RGB")


def test_a_detector_finds_boxes_in_the_images_pixels(detector_directory: Path, picture: Image.Image) -> None:
    detector = load_detector(detector_directory)
    found = detector.detect(picture, score=0.0)
    assert found.boxes.shape == (7, 4)
    assert found.scores.shape == found.labels.shape == (7,)
    assert set(found.labels.tolist()) <= set(NAMES)
    assert detector.names == NAMES
    assert detector.selection == Selection(score=0.0, top=100)
    # The same as transformers' own steps.
    batch = detector.processor(images=picture, return_tensors="pt")
    with torch.no_grad():
        boxes = detector.model(**batch).pred_boxes[0]
    centre, size = boxes[:, :2], boxes[:, 2:]
    corners = torch.cat([centre - size / 2, centre + size / 2], dim=1) * torch.tensor([64.0, 40, 64, 40])
    assert np.allclose(found.boxes, corners.numpy(), atol=1e-3)
    above = detector.detect(picture, score=float(np.sort(found.scores)[3]))
    assert len(above) == 4
    assert load_detector(detector_directory).fingerprint == detector.fingerprint


def test_another_family_loads_too(tmp_path: Path, picture: Image.Image) -> None:
    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=[64, 64],
        num_detection_tokens=10,
        num_labels=4,
    )
    YolosForObjectDetection(config).save_pretrained(tmp_path)
    YolosImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path)
    assert len(load_detector(tmp_path).detect(picture, score=0.0)) == 10


SMALL = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "embedding_size": 8, "layer_type": "basic"}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}


def test_deformable_detr_loads_too(tmp_path: Path, picture: Image.Image) -> None:
    backbone = ResNetConfig(**SMALL, out_features=["stage2", "stage3", "stage4"])
    config = DeformableDetrConfig(
        **HEADS,
        use_timm_backbone=False,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=7,
        num_labels=3,
        num_feature_levels=3,
    )
    DeformableDetrForObjectDetection(config).save_pretrained(tmp_path)
    DeformableDetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path)
    detector = load_detector(tmp_path)
    # It gives the best of all queries and classes.
    assert 0 < len(detector.detect(picture, score=0.0)) <= 21
    assert detector.selection.top == 100


def test_rt_detr_loads_too(tmp_path: Path, picture: Image.Image) -> None:
    backbone = RTDetrResNetConfig(**SMALL, out_features=["stage2", "stage3", "stage4"])
    config = RTDetrConfig(
        **HEADS,
        backbone_config=backbone,
        use_timm_backbone=False,
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 16, 32],
        decoder_in_channels=[32, 32, 32],
        d_model=32,
        num_queries=7,
        decoder_layers=1,
        num_labels=3,
        num_denoising=0,
    )
    RTDetrForObjectDetection(config).save_pretrained(tmp_path)
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    detector = load_detector(tmp_path)
    assert len(detector.detect(picture, score=0.0)) == 7
    assert detector.selection == Selection(score=0.0, top=300)


def test_what_is_no_detector_is_refused(tmp_path: Path, model_directory: Path) -> None:
    for folder in (tmp_path, model_directory):
        with pytest.raises(ModelError, match="cannot be loaded as a detector"):
            load_detector(folder)


def test_labels_meet_categories_by_name() -> None:
    assert match_categories(NAMES, {7: "Disc", 9: "hot dog", 11: "cat"}, source="d") == {0: 7, 2: 9}
    with pytest.raises(AnnotationError, match="no category in common: the detector has N/A, disc, hot_dog"):
        match_categories(NAMES, {1: "ship"}, source="d")


def some(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(np.array(boxes, dtype=float).reshape(-1, 4), np.array(scores), np.array(labels))


def test_boxes_are_clipped_filtered_suppressed_and_limited() -> None:
    found = some(
        [[-5, -5, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [30, 30, 90, 90], [90, 5, 95, 9], [3, 3, 3, 9]],
        [0.5, 0.9, 0.8, 0.04, 0.9, 0.9],
        [1, 1, 2, 1, 1, 1],
    )
    kept = select(found, Selection(score=0.05, top=10, nms=0.7), width=50, height=40)
    assert kept.scores.tolist() == [0.9, 0.8]
    assert kept.labels.tolist() == [1, 2]
    everything = select(found, Selection(score=0.0, top=10), width=50, height=40)
    assert everything.boxes.tolist()[-1] == [30, 30, 50, 40]
    assert len(everything) == 4
    assert len(select(found, Selection(score=0.0, top=1), width=50, height=40)) == 1
    assert len(select(some([], [], []), Selection(), width=5, height=5)) == 0


@given(st.integers(0, 2**31), st.floats(0.1, 0.9))
def test_suppression_leaves_no_two_that_overlap_and_drops_none_without_cause(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    low = rng.random((12, 2)) * 20
    boxes = np.hstack([low, low + 1 + rng.random((12, 2)) * 15])
    found = Detections(boxes, rng.random(12), rng.integers(0, 2, 12).astype(float))
    stays = suppress(found, limit)
    ious = box_ious(found.boxes, found.boxes)
    alike = found.labels[:, None] == found.labels[None, :]
    for i in stays:
        assert not any(i != j and alike[i, j] and ious[i, j] > limit for j in stays)
    for i in set(range(12)) - set(stays.tolist()):
        assert any(alike[i, j] and ious[i, j] > limit and found.scores[j] >= found.scores[i] for j in stays)
    assert np.allclose(ious.diagonal(), 1)
