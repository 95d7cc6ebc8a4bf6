"""Oriented detection on drawn aerial pictures with known answers."""

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from mixqsam.cli.main import app
from mixqsam.data.dota import OrientedObject, Tile, find_tiles, make_tiles, read_dota, read_labels, read_task2
from mixqsam.errors import AnnotationError, OutputError
from mixqsam.evaluation.oriented import (
    OrientedResult,
    mask_rectangle,
    rotated_ious,
    score_oriented,
    suppress_rotated,
)
from mixqsam.pipeline import oriented
from mixqsam.pipeline.options import OrientedData, Session
from mixqsam.pipeline.oriented import run_oriented
from mixqsam.prediction import Prediction
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts


def rectangle(x: float, y: float, width: float, height: float, angle: float) -> np.ndarray:
    """Corners of a rectangle around (x, y), turned by `angle` in radians."""
    corners = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray(corners @ turn.T + [x, y])


def area(polygon: list[tuple[float, float]]) -> float:
    """By the shoelace formula."""
    if len(polygon) < 3:
        return 0.0
    x, y = np.array(polygon).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def clip_slowly(subject: np.ndarray, window: np.ndarray) -> list[tuple[float, float]]:
    """Sutherland and Hodgman's intersection of two convex polygons."""
    points = [tuple(p) for p in subject]
    for a, b in zip(window, np.roll(window, -1, axis=0), strict=True):

        def side(p: tuple[float, float], a: np.ndarray = a, b: np.ndarray = b) -> float:
            return float((b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]))

        found: list[tuple[float, float]] = []
        for p, q in zip(points, points[1:] + points[:1], strict=True):
            if side(p) >= 0:
                found.append(p)
            if (side(p) >= 0) != (side(q) >= 0):
                t = side(p) / (side(p) - side(q))
                found.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
        points = found
        if not points:
            return []
    return points


numbers = st.floats(-20, 20)
sides = st.floats(2, 30)
boxes = st.builds(rectangle, numbers, numbers, sides, sides, st.floats(0, math.pi))


@given(st.lists(boxes, min_size=1, max_size=4), st.lists(boxes, min_size=1, max_size=4))
def test_rotated_iou_is_that_of_exact_polygon_areas(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    found = rotated_ious(np.stack(first), np.stack(second))
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            both = area(clip_slowly(one, other))
            assert found[i, j] == pytest.approx(both / (area(one.tolist()) + area(other.tolist()) - both), abs=1e-9)


def test_rotated_iou_does_not_mind_the_order_of_corners() -> None:
    box = rectangle(5, 5, 10, 4, 0.3)
    assert rotated_ious(box[None], box[[2, 0, 3, 1]][None])[0, 0] == pytest.approx(1)
    assert rotated_ious(box[None], np.zeros((0, 4, 2))).shape == (1, 0)


def drawn(corners: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """The mask of pixels whose centres lie inside."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.ones((height, width), dtype=bool)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        inside &= (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) >= 0
    return inside


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, 1.2, math.pi / 2])
def test_a_mask_gives_its_rectangle(angle: float) -> None:
    box = rectangle(60, 50, 70, 30, angle)
    mask = drawn(box, width=120, height=100)
    mask[2:4, 2:4] = True  # a speck elsewhere is not part of the object
    found = mask_rectangle(mask)
    assert found is not None
    assert rotated_ious(found[None], box[None])[0, 0] > 0.93
    assert mask_rectangle(np.zeros((5, 5), bool)) is None
    single = np.zeros((5, 5), bool)
    single[2, 3] = True
    pixel = mask_rectangle(single)
    assert pixel is not None
    assert rotated_ious(pixel[None], np.array([[[3.0, 2], [4, 2], [4, 3], [3, 3]]]))[0, 0] == pytest.approx(1)


# Scores, by hand


def thing(x: float, *, category: str = "ship", difficult: bool = False) -> OrientedObject:
    return OrientedObject(rectangle(x, 50, 20, 10, 0.4), category, difficult)


def result(x: float, score: float, *, image: str = "a", category: str = "ship") -> OrientedResult:
    return OrientedResult(image, rectangle(x, 50, 20, 10, 0.4), category, score)


def test_perfect_results_score_100_and_none_score_0() -> None:
    truth = {"a": [thing(20), thing(60, category="plane")], "b": [thing(30)], "c": []}
    perfect = [result(20, 0.9), result(60, 0.8, category="plane"), result(30, 0.7, image="b")]
    scores = score_oriented(truth, perfect)
    assert (scores.map50_voc07, scores.map50, scores.map) == (100, 100, 100)
    assert scores.categories == {"plane": 100, "ship": 100}
    assert score_oriented(truth, []).map50 == 0
    assert score_oriented({"a": []}, perfect).map50 == 0


def test_average_precision_by_hand() -> None:
    # Found, false, found; two of three objects: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3.
    truth = {"a": [thing(20), thing(60), thing(100)]}
    found = [result(20, 0.9), result(500, 0.8), result(60, 0.7)]
    scores = score_oriented(truth, found)
    assert scores.map50 == pytest.approx(100 * (1 / 3 + 1 / 3 * 2 / 3))
    # Recalls 0, 0.1, 0.2, 0.3 have precision 1; 0.4, 0.5, 0.6 have 2/3.
    assert scores.map50_voc07 == pytest.approx(100 * (4 + 3 * 2 / 3) / 11)
    # The same object found twice is found once and once false.
    twice = score_oriented({"a": [thing(20)]}, [result(20, 0.9), result(20, 0.8)])
    assert twice.map50 == 100
    first_false = score_oriented({"a": [thing(20)]}, [result(500, 0.9), result(20, 0.8)])
    assert first_false.map50 == 50


def test_difficult_objects_count_neither_way() -> None:
    truth = {"a": [thing(20), thing(60, difficult=True)]}
    assert score_oriented(truth, [result(60, 0.9), result(20, 0.8)]).map50 == 100
    assert score_oriented(truth, [result(20, 0.8)]).map50 == 100
    assert score_oriented({"a": [thing(60, difficult=True)]}, [result(60, 0.9)]).categories == {}


def test_suppression_is_within_a_category() -> None:
    found = [result(20, 0.5), result(21, 0.9), result(20, 0.4, category="plane"), result(80, 0.1)]
    kept = suppress_rotated(found, limit=0.1)
    assert [(one.category, one.score) for one in kept] == [("ship", 0.9), ("ship", 0.1), ("plane", 0.4)]
    assert suppress_rotated([], limit=0.1) == []


# Files


def write_labels(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text("\n".join(lines))
    return folder / f"{name}.txt"


GOOD = "1 2 11 2 11 8 1 8 ship 0"


def test_labels_are_read_with_and_without_headers_and_flags(tmp_path: Path) -> None:
    path = write_labels(
        tmp_path,
        "P1",
        "imagesource:x",
        "gsd:0.14",
        GOOD,
        "",
        "0 0 5 5 0 5 5 0 large-vehicle 1",
        "0 0 9 0 9 9 0 9 x",
    )
    objects = read_labels(path)
    assert [(o.category, o.difficult) for o in objects] == [("ship", False), ("large-vehicle", True), ("x", False)]
    assert objects[0].corners.tolist() == [[1, 2], [11, 2], [11, 8], [1, 8]]
    assert read_labels(write_labels(tmp_path, "P2")) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3 4 ship 0", "line 2: expected x1 y1"),
        ("1 2 11 2 11 8 1 8 ship 7", "line 2: expected x1 y1"),
        ("1 2 11 2 11 8 1 x ship 0", "line 2: could not convert"),
        ("1 2 11 2 11 nan 1 8 ship 0", "line 2: a coordinate is NaN"),
        ("3 3 3 3 3 3 3 3 ship 0", "line 2: the corners enclose no area"),
        ("3 3 9 3 9 3 3 3 ship 0", "line 2: the corners enclose no area"),
    ],
)
def test_malformed_labels_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=f"P1.txt, {message}"):
        read_labels(write_labels(tmp_path, "P1", GOOD, line))


def test_images_and_labels_must_belong_together(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images/P1.png")
    write_labels(tmp_path / "labels", "P1", GOOD)
    assert [image.name for image in read_dota(tmp_path / "images", tmp_path / "labels")] == ["P1"]
    write_labels(tmp_path / "labels", "P2", GOOD)
    with pytest.raises(AnnotationError, match=r"P2.txt has no counterpart"):
        read_dota(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "labels/P1.txt").unlink()
    (tmp_path / "labels/P2.txt").unlink()
    with pytest.raises(AnnotationError, match=r"P1.png has no counterpart"):
        read_dota(tmp_path / "images", tmp_path / "labels")
    with pytest.raises(AnnotationError, match="is not a folder"):
        read_dota(tmp_path / "images", tmp_path / "nowhere")


def test_a_detectors_boxes_are_read_or_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images/P1.png")
    write_labels(tmp_path / "labels", "P1", GOOD)
    images = read_dota(tmp_path / "images", tmp_path / "labels")
    folder = tmp_path / "boxes"
    with pytest.raises(AnnotationError, match=r"holds no Task2_"):
        read_task2(folder, images=images)
    write_labels(folder, "Task2_ship", "P1 0.75 1 2 11 8", "")
    (found,) = read_task2(folder, images=images)["P1"]
    assert (found.category, found.score, found.box.tolist()) == ("ship", 0.75, [1, 2, 11, 8])
    for line, message in (("P9 0.5 1 1 2 2", "P9 is not in the data set"), ("P1 0.5 1 1 2", "expected image score")):
        write_labels(folder, "Task2_ship", line)
        with pytest.raises(AnnotationError, match=f"Task2_ship.txt, line 1: {message}"):
            read_task2(folder, images=images)
    write_labels(folder, "Task2_ship")
    with pytest.raises(AnnotationError, match="hold no boxes"):
        read_task2(folder, images=images)


# Tiles


@given(st.integers(1, 400), st.integers(1, 400), st.integers(20, 120), st.integers(0, 19))
def test_tiles_cover_the_image_and_overlap(width: int, height: int, size: int, overlap: int) -> None:
    parts = make_tiles(width, height, size=size, overlap=overlap)
    covered = np.zeros((height, width), dtype=bool)
    for part in parts:
        assert 0 <= part.x <= part.x + part.width <= width
        assert 0 <= part.y <= part.y + part.height <= height
        assert (part.width, part.height) == (min(size, width), min(size, height))
        covered[part.y : part.y + part.height, part.x : part.x + part.width] = True
    assert covered.all()
    columns = sorted({part.x for part in parts})
    assert all(b - a <= size - overlap for a, b in pairwise(columns))
    assert len(set(parts)) == len(parts)


def test_a_box_goes_to_every_tile_that_holds_most_of_it() -> None:
    parts = [Tile(0, 0, 100, 100), Tile(80, 0, 100, 100)]
    assert find_tiles(np.array([82.0, 10, 98, 20]), parts) == [0, 1]
    assert find_tiles(np.array([10.0, 10, 30, 20]), parts) == [0]
    assert find_tiles(np.array([0.0, 0, 170, 90]), parts) == [0]
    with pytest.raises(ValueError, match="overlap"):
        make_tiles(100, 100, size=50, overlap=50)


# The whole, on a drawn aerial picture


@dataclass
class Perfect:
    """A predictor that knows the answer: the drawn shape that a box is around."""

    picture: np.ndarray | None = None

    def set_image(self, image: Image.Image | np.ndarray) -> None:
        self.picture = np.asarray(image)

    def segment(self, prompts: Prompts, *, multimask: bool = False) -> Prediction:
        del multimask
        assert self.picture is not None
        assert prompts.boxes is not None
        # Every shape has a colour of its own.
        colours = self.picture.reshape(-1, 3)
        masks = []
        for x1, y1, x2, y2 in prompts.boxes.round().astype(int):
            inside = self.picture[y1:y2, x1:x2].reshape(-1, 3)
            shapes = inside[inside.any(axis=1)]
            values, counts = np.unique(shapes, axis=0, return_counts=True)
            masks.append((colours == values[counts.argmax()]).all(axis=1).reshape(self.picture.shape[:2]))
        stacked = np.stack(masks)[:, None]
        count = len(stacked)
        return Prediction(stacked, np.full((count, 1), 0.9, np.float32), np.zeros((count, 1, 8, 8), np.float32), (8, 8))


@pytest.fixture
def aerial(tmp_path: Path) -> OrientedData:
    """Two pictures larger than a tile, with turned rectangles of two categories."""
    rng = np.random.default_rng(0)
    for name in ("P1", "P2"):
        picture = Image.new("RGB", (300, 220))
        pen = ImageDraw.Draw(picture)
        lines = ["imagesource:drawn"]
        for index, (x, y) in enumerate([(50, 50), (130, 60), (230, 50), (60, 150), (150, 160), (240, 160)]):
            box = rectangle(x, y, rng.uniform(35, 60), rng.uniform(15, 30), rng.uniform(0, math.pi))
            pen.polygon([tuple(p) for p in box], fill=(40 + 30 * index, 90, 200 - 20 * index))
            lines.append(" ".join(f"{v:.1f}" for v in box.ravel()) + f" {('ship', 'plane')[index % 2]} 0")
        (tmp_path / "images").mkdir(exist_ok=True)
        picture.save(tmp_path / f"images/{name}.png")
        write_labels(tmp_path / "labels", name, *lines)
    return OrientedData(tmp_path / "images", tmp_path / "labels", tile=160, overlap=70)


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oriented, "load", lambda source, device: source)
    monkeypatch.setattr(oriented, "SamPredictor", lambda _: Perfect())


@pytest.mark.usefixtures("perfect")
def test_perfect_masks_give_map_1(aerial: OrientedData, session: Session, tmp_path: Path) -> None:
    found = run_oriented({"model": "any"}, aerial, session=session, submission=tmp_path / "submission")["model"]
    assert found.map50_voc07 == found.map50 == 100
    assert found.map > 70  # a drawn shape is made of pixels
    assert set(found.categories) == {"ship", "plane"}
    # Objects that two tiles hold were found twice and merged.
    lines = (tmp_path / "submission/model/Task1_ship.txt").read_text().splitlines()
    assert len(lines) == 6
    assert len(lines[0].split()) == 10
    with pytest.raises(OutputError, match="exists"):
        run_oriented({"model": "any"}, aerial, session=session, submission=tmp_path / "submission")
    unmerged = OrientedData(aerial.images, aerial.labels, tile=160, overlap=70, merge=1.0)
    run_oriented({"model": "any"}, unmerged, session=session, submission=tmp_path / "unmerged")
    assert len((tmp_path / "unmerged/model/Task1_ship.txt").read_text().splitlines()) > 6


@pytest.mark.usefixtures("perfect")
def test_a_detectors_scores_order_the_results(aerial: OrientedData, session: Session, tmp_path: Path) -> None:
    images = read_dota(aerial.images, aerial.labels)
    lines: dict[str, list[str]] = {}
    for image in images:
        for index, box in enumerate(image.boxes()):
            text = " ".join(f"{v:.1f}" for v in box.box)
            lines.setdefault(box.category, []).append(f"{image.name} {0.5 + index / 100} {text}")
    for category, some in lines.items():
        write_labels(tmp_path / "boxes", f"Task2_{category}", *some)
    data = OrientedData(aerial.images, aerial.labels, tmp_path / "boxes", tile=160, overlap=70)
    scores = run_oriented({"model": "any"}, data, session=session, submission=tmp_path / "out", limit=1)["model"]
    assert scores.map50 == 100
    written = (tmp_path / "out/model/Task1_ship.txt").read_text().splitlines()
    assert [float(line.split()[1]) for line in written] == [0.54, 0.52, 0.5]


@pytest.mark.usefixtures("perfect")
def test_an_image_that_cannot_be_read_is_skipped_and_its_objects_are_missed(
    aerial: OrientedData, session: Session
) -> None:
    (aerial.images / "P2.png").write_bytes((aerial.images / "P2.png").read_bytes()[:300])
    scores = run_oriented({"model": "any"}, aerial, session=session)["model"]
    assert (scores.images, scores.prompts) == (1, 6)
    assert 40 < scores.map50 < 60
    assert isinstance(session.progress, Silent)
    assert any("Skipped 1 of 2 images" in note and "P2.png" in note for note in session.progress.notes)


def test_from_the_command_line(aerial: OrientedData, tmp_path: Path) -> None:
    command = ["evaluate-oriented", "sam-tiny", "-i", str(aerial.images), "-l", str(aerial.labels), "--limit", "1"]
    done = CliRunner().invoke(app, [*command, "--tile", "300", "--overlap", "20", "-o", str(tmp_path / "scores.json")])
    assert done.exit_code == 0, done.output
    assert "mAP50, VOC 07" in done.output
    assert "quality on 1 image with 6 prompts (labelled boxes)" in " ".join(done.output.split())
    assert "map50" in json.loads((tmp_path / "scores.json").read_text())["sam-tiny"]
    failed = CliRunner().invoke(app, [*command, "--tile", "50", "--overlap", "60"])
    assert failed.exit_code == 2
    assert "does not fit tiles" in failed.output


def test_a_real_model_runs(aerial: OrientedData, session: Session) -> None:
    scores = run_oriented({"float": "sam-tiny"}, aerial, session=session, limit=1)["float"]
    assert 0 <= scores.map50_voc07 <= 100
