import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mixqsam.cli.main import app
from mixqsam.data.labelmaps import UNLABELLED, find_regions, read_labelled
from mixqsam.errors import AnnotationError, ImageError
from mixqsam.evaluation.semantic import Confusion, paint
from mixqsam.options.names import PromptKind
from mixqsam.pipeline import semantic
from mixqsam.pipeline.options import SemanticData, Session
from mixqsam.pipeline.semantic import run_semantic
from mixqsam.prediction import Prediction
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts


def a_map() -> np.ndarray:
    """Class 3: a square and a ring around nothing; class 5: a bar; 255 in a corner; the rest is 0."""
    labels = np.zeros((60, 80), np.uint8)
    labels[5:25, 5:25] = 3
    labels[30:55, 30:55] = 3
    labels[37:48, 37:48] = 0
    labels[10:20, 40:75] = 5
    labels[:3, :3] = UNLABELLED
    return labels


def test_regions_have_their_class_box_and_a_point_inside() -> None:
    labels = a_map()
    found = find_regions(labels, background=(0,))
    assert found.classes.tolist() == [3, 3, 5]
    assert found.boxes.tolist() == [[5, 5, 25, 25], [30, 30, 55, 55], [40, 10, 75, 20]]
    for value, (x, y) in zip(found.classes, found.points, strict=True):
        # The ring's centre is a hole: the point has to lie in the ring.
        assert labels[int(y), int(x)] == value
    assert len(find_regions(labels).classes) == 5  # and the two parts of class 0
    assert len(find_regions(labels, background=(0,), least=401).classes) == 1
    assert len(find_regions(labels, background=(0, 3, 5)).prompts("points")) == 0
    assert found.prompts("boxes").boxes is found.boxes
    points = found.prompts("points").points
    assert points is not None
    assert points.shape == (3, 1, 2)


def test_the_best_mask_is_painted_last() -> None:
    masks = np.zeros((2, 2, 2), bool)
    masks[0] = True
    masks[1, 0] = True
    ground = np.full((2, 2), 9, np.uint8)
    classes = np.array([4, 6], np.uint8)
    assert paint(masks, np.array([0.1, 0.9], np.float32), classes, ground=ground).tolist() == [[6, 6], [4, 4]]
    assert paint(masks, np.array([0.9, 0.1], np.float32), classes, ground=ground).tolist() == [[4, 4], [4, 4]]
    assert ground.tolist() == [[9, 9], [9, 9]]


def test_mean_iou_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    confusion = Confusion()
    confusion.add(truth, np.array([[0, 1, 1, 255, 1]], np.uint8))
    scores = confusion.scores()
    # Class 0: 1 of 2; class 1: 1 right, 1 missed (unpainted), 1 false.
    assert scores.classes == {0: 50.0, 1: pytest.approx(100 / 3)}
    assert scores.miou == pytest.approx((50 + 100 / 3) / 2)
    assert scores.accuracy == 50
    confusion.add(truth, truth)
    assert confusion.scores().classes[0] == 75
    assert confusion.scores().images == 2
    assert Confusion().scores().miou == 0


@pytest.fixture
def data(tmp_path: Path) -> SemanticData:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    labels = a_map()
    Image.fromarray(labels).save(tmp_path / "labels/a.png")
    Image.fromarray(np.stack([labels * 40] * 3, axis=2).astype(np.uint8)).save(tmp_path / "images/a.jpg")
    return SemanticData(tmp_path / "images", tmp_path / "labels", background=0)


class Perfect:
    """A predictor that knows the map."""

    def set_image(self, image: object) -> None:
        pass

    def segment(self, prompts: Prompts, *, multimask: bool = False) -> Prediction:
        del multimask
        regions = find_regions(a_map(), background=(0,))
        masks = np.zeros((len(prompts), 1, 60, 80), bool)
        for index, (value, box) in enumerate(zip(regions.classes, regions.boxes.astype(int), strict=True)):
            x1, y1, x2, y2 = box
            masks[index, 0, y1:y2, x1:x2] = a_map()[y1:y2, x1:x2] == value
        count = len(prompts)
        return Prediction(masks, np.ones((count, 1), np.float32), np.zeros((count, 1, 8, 8), np.float32), (8, 8))


@pytest.mark.parametrize("prompts", ["boxes", "points"])
def test_perfect_masks_give_a_mean_iou_of_100(
    data: SemanticData, session: Session, monkeypatch: pytest.MonkeyPatch, prompts: PromptKind
) -> None:
    monkeypatch.setattr(semantic, "load", lambda source, device: source)
    monkeypatch.setattr(semantic, "SamPredictor", lambda _: Perfect())
    data = SemanticData(data.images, data.labels, prompts=prompts, background=0)
    assert run_semantic({"m": "any"}, data, session=session)["m"].miou == 100


def test_from_the_command_line(data: SemanticData, tmp_path: Path) -> None:
    command = ["evaluate-semantic", "sam-tiny", "-i", str(data.images), "-l", str(data.labels), "--background", "0"]
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "scores.json")])
    assert done.exit_code == 0, done.output
    assert "mIoU" in done.output
    assert "quality on 1 image with 3 prompts (boxes of label maps)" in " ".join(done.output.split())
    assert set(json.loads((tmp_path / "scores.json").read_text())["sam-tiny"]["classes"]) == {"0", "3", "5"}
    assert "'lines' is unknown" in CliRunner().invoke(app, [*command, "--prompts", "lines"]).output


def test_an_image_that_cannot_be_read_is_skipped_and_counted(data: SemanticData, session: Session) -> None:
    content = (data.images / "a.jpg").read_bytes()
    (data.images / "b.jpg").write_bytes(content[: len(content) // 2])
    (data.labels / "b.png").write_bytes((data.labels / "a.png").read_bytes())
    scores = run_semantic({"m": "sam-tiny"}, data, session=session)["m"]
    assert (scores.images, scores.prompts) == (1, 3)
    assert isinstance(session.progress, Silent)
    assert any("Skipped 1 of 2 images" in note and "b.jpg" in note for note in session.progress.notes)
    (data.images / "a.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match="None of the images can be read"):
        run_semantic({"m": "sam-tiny"}, data, session=session)


def test_malformed_data_is_named(data: SemanticData, session: Session, tmp_path: Path) -> None:
    label = data.labels / "a.png"

    def refused(message: str) -> None:
        with pytest.raises(AnnotationError, match=message):
            run_semantic({"m": "sam-tiny"}, data, session=session)

    Image.new("RGB", (80, 60)).save(label)
    refused("a.png is a picture in RGB, not a map")
    Image.new("L", (80, 61)).save(label)
    refused("is 80×61 pixels")
    label.write_text("no")
    refused("cannot be read as a label map")
    Image.new("L", (80, 60)).save(label)
    refused("no label map has a region")
    label.unlink()
    refused("a.jpg has no label map: expected")
    with pytest.raises(AnnotationError, match="is not a folder"):
        read_labelled(data.images, tmp_path / "nowhere")
