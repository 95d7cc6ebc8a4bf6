import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle
from PIL import Image
from typer.testing import CliRunner

from mixqsam.api import predict_automatic
from mixqsam.cli.main import app
from mixqsam.errors import ImageError, InputError, OutputError
from mixqsam.evaluation.automatic import AutomaticCounts, nearest_ious
from mixqsam.evaluation.record import mask_ious
from mixqsam.pipeline.automatic import run_automatic
from mixqsam.pipeline.options import Data, Session
from mixqsam.prediction import Floats, Prediction, Predictor
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts
from mixqsam.sam import automatic
from mixqsam.sam.automatic import Automatic, segment_everything
from mixqsam.sam.crops import make_crops


class Quadrants(Predictor):
    """Finds, for each point, its quadrant (sure), the whole image (less sure) and an unsteady half."""

    frame_side = 64
    features = None
    shape: tuple[int, int]

    @property
    def original_size(self) -> tuple[int, int]:
        return self.shape

    def encode_image(self, image: Image.Image) -> None:
        self.shape = (image.height, image.width)

    def encode_resized(self, pixels: Floats, *, original: tuple[int, int]) -> None:
        raise NotImplementedError

    def reset_image(self) -> None:
        del self.shape

    def keep(self) -> object:
        return self.shape

    def restore(self, kept: object) -> None:
        assert isinstance(kept, tuple)
        self.shape = kept

    def segment(self, prompts: Prompts, *, multimask: bool = False, full: bool = False) -> Prediction:
        assert multimask
        assert not full
        assert prompts.points is not None
        height, width = self.shape
        masks = np.zeros((len(prompts), 3, height, width), bool)
        for index, (x, y) in enumerate(prompts.points[:, 0]):
            rows = slice(0, height // 2) if y < height / 2 else slice(height // 2, height)
            columns = slice(0, width // 2) if x < width / 2 else slice(width // 2, width)
            masks[index, 0, rows, columns] = True
        masks[:, 1] = True
        masks[:, 2, :, : width // 2] = True
        logits = np.where(masks, 5.0, -5.0).astype(np.float32)
        logits[:, 2] = np.where(masks[:, 2], 0.5, -0.5)
        scores = np.tile(np.array([0.95, 0.9, 0.99], np.float32), (len(prompts), 1))
        return Prediction(masks, scores, logits, (height, width))


class Counted(Silent):
    """Counts the steps that are reported."""

    steps = 0

    def track(self, items: Any, *, label: str, total: int, steps: Any = None) -> Any:
        for item in items:
            self.steps += steps(item)
            yield item
        assert self.steps == total, label


PICTURE = Image.new("RGB", (40, 20))


def test_each_thing_is_found_once_and_what_is_unsure_or_unsteady_is_not() -> None:
    found = segment_everything(Quadrants(), PICTURE, Automatic(side=10))
    assert len(found.masks) == 5
    assert found.scores.tolist() == pytest.approx([0.95] * 4 + [0.9])
    assert found.masks[:4].sum() == 800
    assert found.choices.tolist() == [1, 1, 1, 1, 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automatic, "_MASK_BYTES", 7 * 3 * 40 * 20)
        again = segment_everything(Quadrants(), PICTURE, Automatic(side=10))
    assert again.points.tolist() == found.points.tolist()
    assert len(segment_everything(Quadrants(), PICTURE, Automatic(side=10, predicted_iou=0.92)).masks) == 4
    assert len(segment_everything(Quadrants(), PICTURE, Automatic(side=10, predicted_iou=0.999)).masks) == 0
    assert len(segment_everything(Quadrants(), PICTURE, Automatic(side=2, stability=0.0)).masks) == 6


def test_crops_are_segmented_too_and_the_image_stays_set() -> None:
    predictor, picture = Quadrants(), Image.new("RGB", (400, 200))
    silent = Counted()
    found = segment_everything(predictor, picture, Automatic(side=4, crop_layers=1, crop_overlap=0), progress=silent)
    assert predictor.original_size == (200, 400)
    assert silent.steps == 5 * 16
    # Of each crop, the quadrant in the image's corner ends far from the crop's other edges; the rest is cut.
    places = [(box[0], box[1], box[2] - box[0], box[3] - box[1]) for box in found.crops.tolist()]
    corners = {(0, 0), (200, 0), (0, 100), (200, 100)}
    assert {place[:2] for place in places if place[2:] == (200, 100)} == corners
    assert found.masks.shape == (len(places), 100 * 2, 400)
    for mask, (left, top, width, height), point in zip(found.masks, places, found.points, strict=True):
        assert mask[int(point[1]), int(point[0])]
        assert not np.delete(mask, np.s_[top : top + height], axis=0).any()
        assert not np.delete(mask, np.s_[left : left + width], axis=1).any()
    boxes = [record["crop_box"] for record in found.records()]
    assert [tuple(box) for box in boxes] == places


def test_crops_by_hand() -> None:
    crops = make_crops(100, 150, Automatic(side=8, crop_layers=1, crop_overlap=0.2, crop_downscale=2))
    assert [(*crop.box, crop.side) for crop in crops] == [
        (0, 0, 150, 100, 8), (0, 0, 85, 60, 4), (0, 40, 85, 100, 4), (65, 0, 150, 60, 4), (65, 40, 150, 100, 4),
    ]  # fmt: skip
    # Crops that overlap wholly are the image itself, and count once.
    assert len(make_crops(100, 100, Automatic(side=8, crop_layers=1, crop_overlap=1))) == 1
    with pytest.raises(InputError, match="150×3 pixels is too small for 2 layers of crops"):
        make_crops(3, 150, Automatic(crop_layers=2))
    with pytest.raises(InputError, match="1×1 pixels is too small for 1 layer of crops"):
        make_crops(1, 1, Automatic(crop_layers=1))
    with pytest.raises(InputError, match="crop_overlap 1.5: at most 1"):
        Automatic(crop_overlap=1.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"predicted_iou": 2}, "predicted_iou 2: at most 1"),
        ({"stability": 95}, "stability 95: at most 1"),
        ({"stability": -1}, "stability -1: at least 0"),
        ({"overlap": 7}, "overlap 7: at most 1"),
    ],
)
def test_limits_that_are_not_ious_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Automatic(**options)  # type: ignore[arg-type]


def test_the_nearest_mask_by_hand() -> None:
    rng = np.random.default_rng(0)
    wanted, found = rng.random((3, 9, 7)) < 0.4, rng.random((5, 9, 7)) < 0.4
    expected = [max(mask_ious(one[None], other[None])[0] for other in found) for one in wanted]
    assert nearest_ious(wanted, found).tolist() == pytest.approx(expected)
    assert nearest_ious(wanted, found[:0]).tolist() == [0, 0, 0]
    assert nearest_ious(wanted[:0], found).shape == (0,)


def test_figures_by_hand() -> None:
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2] = True
    masks[1, 2:] = True
    half = masks.copy()
    half[1, 3] = False  # IoU 0.5
    counts = AutomaticCounts()
    counts.add(half, reference=masks, truth=masks)
    scores = counts.scores()
    assert (scores.images, scores.masks, scores.fidelity, scores.same) == (1, 2, 0.75, 50)
    assert scores.recall50 == 100
    assert scores.recall == pytest.approx(100 * (1 + 9 * 0.5) / 10)
    counts.add(half[:0], reference=masks, truth=None)
    assert counts.scores().fidelity == 0.375
    own = AutomaticCounts()
    own.add(masks, reference=None, truth=None)
    assert (own.scores().fidelity, own.scores().recall) == (None, None)


def test_a_model_finds_all_of_its_own_masks(picture_folder: Path, session: Session) -> None:
    options = Automatic(side=6, predicted_iou=0.0, stability=0.0)
    models = {"float": "sam-tiny", "again": "sam-tiny"}
    found = run_automatic(models, Data(picture_folder), options=options, session=session, limit=2)
    assert found["float"].masks > 0
    assert found["again"].fidelity == 1
    assert found["again"].same == 100
    assert found["again"].recall is None


def test_a_model_that_is_sure_of_nothing_is_told(picture_folder: Path, session: Session) -> None:
    found = run_automatic(
        {"float": "sam-tiny"}, Data(picture_folder), options=Automatic(side=2), session=session, limit=1
    )
    assert found["float"].masks == 0
    assert isinstance(session.progress, Silent)
    assert any("finds no mask with" in note for note in session.progress.notes)


def test_annotated_masks_are_recalled(coco: Path, session: Session) -> None:
    data = Data(coco / "val2017", coco / "annotations/instances_val2017.json")
    options = Automatic(side=16, predicted_iou=0.2, stability=0.4)
    found = run_automatic({"float": "sam-tiny"}, data, options=options, session=session, limit=4)["float"]
    assert found.recall is not None
    assert found.recall50 is not None
    assert 0 < found.recall50 <= 100
    assert 0 <= found.recall <= found.recall50


def test_broken_images_are_named(picture_folder: Path, session: Session) -> None:
    class Broken:
        annotations = None

        def samples(self, *, count: int | None, progress: object) -> list[object]:
            del count, progress
            return [Gone(), *samples]

    class Gone:
        def open(self) -> None:
            raise ImageError("gone.png is damaged")

    samples = Data(picture_folder).samples(count=1, progress=Silent())[:1]
    options = Automatic(side=2, predicted_iou=0.0, stability=0.0)
    run_automatic({"float": "sam-tiny"}, Broken(), options=options, session=session)  # type: ignore[arg-type]
    assert isinstance(session.progress, Silent)
    assert any("Skipped 1 of 2 images: gone.png" in note for note in session.progress.notes)
    samples.clear()
    with pytest.raises(ImageError, match="None of the images"):
        run_automatic({"float": "sam-tiny"}, Broken(), options=options, session=session)  # type: ignore[arg-type]


def test_from_the_command_line(picture_folder: Path, tmp_path: Path) -> None:
    command = ["evaluate-automatic", "sam-tiny", "-i", str(picture_folder), "--side", "3", "--limit", "1"]
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "s.json")])
    assert done.exit_code == 0, done.output
    assert "masks per image" in done.output
    assert json.loads((tmp_path / "s.json").read_text())["float"]["images"] == 1


def test_everything_in_one_image_from_the_command_line(picture_folder: Path, tmp_path: Path) -> None:
    records, overlay = tmp_path / "m.json", tmp_path / "o.jpg"
    command = ["predict-automatic", str(picture_folder / "a.png"), "--side", "3", "-o", str(records)]
    sure = ["--predicted-iou", "0", "--stability", "0", "--crop-layers", "1", "--overlay", str(overlay), "--json"]
    done = CliRunner().invoke(app, [*command, *sure])
    assert done.exit_code == 0, done.output
    found = json.loads(records.read_text())
    assert json.loads(done.stdout)["masks"] == found
    assert len(found) > 0
    for record in found:
        assert rle.decode(record["segmentation"]).shape == (40, 64)
        assert int(rle.area(record["segmentation"])) == record["area"]
    with Image.open(overlay) as picture:
        assert (picture.size, picture.format) == ((64, 40), "JPEG")
    # sam-tiny is sure of nothing by Meta's settings.
    done = CliRunner().invoke(app, [*command, "--overlay", str(overlay)])
    assert done.exit_code == 0, done.output
    assert "lower both" in " ".join(done.output.split())
    assert json.loads(records.read_text()) == []
    done = CliRunner().invoke(app, [*command, "--crop-layers", "9"])
    assert done.exit_code == 2
    assert "at most 4" in " ".join(done.output.split())


def test_python_is_warned_of_a_model_that_is_sure_of_nothing(
    picture_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = Automatic(side=2)
    found = predict_automatic(picture_folder / "a.png", options=options, output=tmp_path / "made" / "m.json")
    assert "sam-tiny finds no mask with a predicted IoU of at least 0.88" in caplog.text
    assert len(found.scores) == 0
    assert json.loads((tmp_path / "made" / "m.json").read_text()) == []
    progress, before = Silent(), caplog.text
    assert len(predict_automatic(picture_folder / "a.png", options=options, progress=progress).scores) == 0
    assert len(progress.notes) == 1
    assert caplog.text == before


@pytest.mark.parametrize("kind", ["folder", "beneath a file"])
def test_all_files_are_written_or_none(picture_folder: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    overlay = tmp_path / "folder.png" if kind == "folder" else tmp_path / "file" / "o.png"
    options = Automatic(side=2, predicted_iou=0.0, stability=0.0)
    with pytest.raises(OutputError, match="Cannot write"):
        predict_automatic(picture_folder / "a.png", options=options, output=tmp_path / "m.json", overlay=overlay)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.png"}
