import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixqsam.data.coco import annotated_samples
from mixqsam.data.demo import CALIBRATION, EVALUATION, demo_samples
from mixqsam.data.images import list_images, open_image
from mixqsam.data.records import read_annotations, read_detections
from mixqsam.data.samples import draw_calibration_samples, folder_samples
from mixqsam.errors import AnnotationError, ImageError
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts, clip_boxes, point_grid, point_prompt
from tests.conftest import draw


def test_exif_orientation_turns_the_image(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    upright = open_image(tmp_path / "turned.png")
    assert upright.size == (20, 30)
    assert upright.getpixel((19, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16", "LA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"x.{suffix}"
    Image.new(mode, (8, 6)).save(path)
    assert open_image(path).mode == "RGB"


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16)).save(tmp_path / "x.png")
    assert open_image(tmp_path / "x.png").getpixel((0, 0)) == (128, 128, 128)


def test_broken_images_are_named_skipped_and_counted(tmp_path: Path) -> None:
    draw(tmp_path / "good.png", width=20, height=20, seed=0)
    content = draw(tmp_path / "cut.jpg", width=200, height=200, seed=0).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("no picture")
    progress = Silent()
    samples = folder_samples(tmp_path, count=None, grid=2, progress=progress)
    # Only headers are read: what is cut shows when it is decoded.
    assert [s.path.name for s in samples] == ["cut.jpg", "good.png"]
    assert "Skipped 1 of 3 images" in progress.notes[0]
    assert "text.png" in progress.notes[0]
    (sample,) = draw_calibration_samples(samples, count=2, prompts=1, progress=progress)
    assert sample.path.name == "good.png"
    assert "Skipped 1 of 2 images" in progress.notes[1]
    assert "cut.jpg" in progress.notes[1]
    (sample,) = folder_samples(tmp_path, count=2, grid=2, progress=progress, seed=0)
    assert sample.path.name == "good.png"
    (tmp_path / "good.png").unlink()
    with pytest.raises(ImageError, match="None of the images can be read"):
        draw_calibration_samples(samples, count=2, prompts=1, progress=progress)


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is not a folder"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ImageError, match="holds no images"):
        list_images(tmp_path)


def test_the_grid_of_points_is_centred_in_its_cells() -> None:
    prompts = point_grid(width=40, height=20, side=2)
    assert prompts.points is not None
    assert prompts.points[:, 0].tolist() == [[10, 5], [30, 5], [10, 15], [30, 15]]


def test_at_most_is_deterministic_and_keeps_order() -> None:
    prompts = Prompts(boxes=np.arange(40.0).reshape(10, 4))
    first, again = prompts.at_most(4, seed=3), prompts.at_most(4, seed=3)
    assert first.boxes is not None
    assert again.boxes is not None
    assert (first.boxes == again.boxes).all()
    assert (np.diff(first.boxes[:, 0]) > 0).all()


@pytest.mark.parametrize("box", [[200, 5, 220, 10], [5, 5, 5, 10], [-9, -9, -1, -1]])
def test_boxes_without_area_in_the_image_are_refused(box: list[float]) -> None:
    with pytest.raises(AnnotationError, match="no area inside the image of 100×50"):
        clip_boxes(np.array([[1.0, 1, 5, 5], box]), width=100, height=50, source="x")


def test_boxes_that_stick_out_are_cut() -> None:
    assert clip_boxes(np.array([[-3.0, 4, 120, 60]]), width=100, height=50, source="x").tolist() == [[0, 4, 100, 50]]


def coco_file(folder: Path, **changes: object) -> Path:
    draw(folder / "one.png", width=40, height=30, seed=1)
    content = {
        "images": [{"id": 7, "file_name": "one.png", "width": 40, "height": 30}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [5, 5, 10, 12], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 30], "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 3, "bbox": [9, 9, 0, 4], "iscrowd": 0},
        ],
        "categories": [{"id": 3, "name": "cat"}],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_annotations_give_boxes_without_crowds_and_empty_ones(tmp_path: Path) -> None:
    (sample,) = annotated_samples(coco_file(tmp_path), images=tmp_path)
    assert sample.prompts.boxes is not None
    assert sample.prompts.boxes.tolist() == [[5, 5, 15, 17]]
    assert (sample.categories, sample.scores, sample.image_id) == ((3,), None, 7)


def test_detections_take_the_place_of_the_boxes(tmp_path: Path) -> None:
    detections = tmp_path / "detections.json"
    detections.write_text(json.dumps([{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]))
    (sample,) = annotated_samples(coco_file(tmp_path), images=tmp_path, detections=detections)
    assert sample.prompts.boxes is not None
    assert sample.prompts.boxes.tolist() == [[1, 2, 4, 6]]
    assert sample.scores == (0.5,)
    detections.write_text(json.dumps([{"image_id": 8, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]))
    with pytest.raises(AnnotationError, match="belongs to image 8"):
        annotated_samples(coco_file(tmp_path), images=tmp_path, detections=detections)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "cannot be read"),
        ("[]", "is not a COCO annotation file"),
        ('{"images": [], "annotations": []}', "images: List should have at least 1 item"),
        ('{"images": [{"id": 1}], "annotations": []}', r"images.0.file_name: Field required"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_malformed_annotations(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_annotations(path)


def test_missing_annotations_and_images(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="does not exist"):
        read_annotations(tmp_path / "none.json")
    path = coco_file(tmp_path)
    (tmp_path / "one.png").unlink()
    with pytest.raises(ImageError, match="one.png is missing"):
        annotated_samples(path, images=tmp_path)


def test_file_names_may_not_leave_the_folder(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "../secret.png", "width": 40, "height": 30}]
    with pytest.raises(AnnotationError, match="leaves the image folder"):
        annotated_samples(coco_file(tmp_path, images=images), images=tmp_path)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "one.png", "width": 80, "height": 60}]
    (sample,) = annotated_samples(coco_file(tmp_path, images=images), images=tmp_path)
    with pytest.raises(ImageError, match="is 40×30 pixels, but its annotations say 80×60"):
        sample.open()


@pytest.mark.parametrize(
    "text", ["[]", "{}", '[{"image_id": 1}]', '[{"image_id":1,"category_id":1,"bbox":[1],"score":1}]']
)
def test_malformed_detections(tmp_path: Path, text: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(AnnotationError, match="holds no detections|not a COCO-results file"):
        read_detections(path)


def test_calibration_needs_prompts(tmp_path: Path) -> None:
    samples = annotated_samples(coco_file(tmp_path, annotations=[]), images=tmp_path)
    with pytest.raises(AnnotationError, match="No image has a box"):
        draw_calibration_samples(samples, count=1, prompts=1, progress=Silent())


def test_the_shared_set_reads(coco: Path) -> None:
    samples = annotated_samples(coco / "annotations/instances_val2017.json", images=coco / "val2017")
    assert len(samples) == 100
    assert sum(len(s.prompts) for s in samples) == 927


def test_demo_photographs_open_and_hold_their_boxes() -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    for sample in demo_samples((*CALIBRATION, *EVALUATION), grid=2):
        image = sample.open()
        if sample.prompts.boxes is not None:
            clip = clip_boxes(sample.prompts.boxes, width=image.width, height=image.height, source="demo")
            assert (clip == sample.prompts.boxes).all()


def test_points_are_checked_at_one_place() -> None:
    prompt = point_prompt(np.array([[0.0, 5, 1], [20, 10, 0]]), width=20, height=10, source="x")
    assert prompt.points is not None
    assert prompt.labels is not None
    assert prompt.points.tolist() == [[[0, 5], [20, 10]]]
    assert prompt.labels.tolist() == [[1, 0]]
    for point, words in (
        ([21.0, 5, 1], "x: a point lies outside the image of 20×10"),
        ([1.0, -1, 1], "outside the image"),
        ([1.0, 1, 0.5], "x: a label is neither 1 .* nor 0"),
        ([float("nan"), 1, 1], "x: a point holds NaN"),
    ):
        with pytest.raises(AnnotationError, match=words):
            point_prompt(np.array([point]), width=20, height=10, source="x")
