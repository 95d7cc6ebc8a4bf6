"""Boxes without annotations: which image a box belongs to is clear, or the file is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from mixqsam.data.loose_boxes import boxed_samples
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError, ImageError
from mixqsam.pipeline.options import Data
from mixqsam.progress import Silent
from tests.conftest import draw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    for name in ("000000000139.png", "cats/7.png", "dogs/rex.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        draw(images / name, width=40, height=30, seed=1)
    return images


def read(folder: Path, content: Any, **options: Any) -> tuple[dict[str, list[list[float]]], list[str]]:
    """File → boxes, and what was noted."""
    path = folder.parent / "boxes.json"
    path.write_text(json.dumps(content))
    progress = Silent()
    found = boxed_samples(path, images=folder, progress=progress, **options)
    return {one.path.name: one.prompts.boxes.tolist() for one in found}, progress.notes  # type: ignore[union-attr]


def box(image: Any, **changes: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": 1, "bbox": [1, 2, 10, 20], "score": 0.5, **changes}


EXPECTED = [[1, 2, 11, 22]]


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (139, "000000000139.png"),
        (139.0, "000000000139.png"),
        ("139", "000000000139.png"),
        ("000000000139", "000000000139.png"),
        ("000000000139.png", "000000000139.png"),
        (7, "7.png"),
        ("cats/7.png", "7.png"),
        ("rex", "rex.png"),
        ("dogs/rex.png", "rex.png"),
    ],
)
def test_numbers_and_names_that_are_one_file(folder: Path, image: Any, name: str) -> None:
    assert read(folder, [box(image)]) == ({name: EXPECTED}, [])
    if isinstance(image, str) and image.endswith(".png"):
        assert read(folder, [box(99, file_name=image)]) == ({name: EXPECTED}, [])


def test_scores_and_kinds(folder: Path) -> None:
    def samples(content: Any) -> list[Sample]:
        path = folder.parent / "boxes.json"
        path.write_text(json.dumps(content))
        return Data(folder, boxes=path).samples(count=None, progress=Silent())

    (sample,) = samples([box(7), box(7, score=0.25)])
    assert (sample.scores, sample.prompt_kind, sample.width, sample.height) == ((0.5, 0.25), "detector's boxes", 40, 30)
    (sample,) = samples([{"image_id": 7, "bbox": [1, 2, 10, 20]}, box(7)])
    assert (sample.scores, sample.prompt_kind) == (None, "boxes")


def test_a_list_of_images_decides(folder: Path) -> None:
    listed = {
        "images": [
            {"id": 7, "file_name": "dogs/rex.png", "width": 40, "height": 30},
            {"id": 8, "file_name": "cats/7.png", "width": 40, "height": 30},
        ],
        "annotations": [{"id": 1, "image_id": "7", "category_id": 1, "bbox": [1, 2, 10, 20], "segmentation": []}],
    }
    assert read(folder, listed) == ({"rex.png": EXPECTED}, [])
    listed["annotations"][0]["image_id"] = 9
    with pytest.raises(AnnotationError, match="belongs to image 9, which is not among its images"):
        read(folder, listed)
    listed["images"][1]["id"] = 7
    with pytest.raises(AnnotationError, match="two images have the id 7"):
        read(folder, listed)


def test_what_may_be_two_files_is_refused(folder: Path) -> None:
    draw(folder / "dogs/7.png", width=40, height=30, seed=1)
    for image in (7, "7", "7.png", "007"):
        with pytest.raises(AnnotationError, match=r"may be cats/7.png and dogs/7.png; name paths"):
            read(folder, [box(image)])
    assert read(folder, [box("dogs/7.png")])[0] == {"7.png": EXPECTED}


@pytest.mark.parametrize("image", [3, "nobody", None, "x" * 10**5])
def test_what_is_not_a_file_is_refused_or_left_out(folder: Path, image: Any) -> None:
    with pytest.raises(AnnotationError, match="is not the name of a file.*--annotations.*--skip-missing") as caught:
        read(folder, [box(7), box(image)])
    assert len(str(caught.value)) < 600
    found, notes = read(folder, [box(7), box(image)], skip_missing=True)
    assert found == {"7.png": EXPECTED}
    assert notes[0].startswith("Left out 1 of 2 boxes")
    with pytest.raises(AnnotationError, match="is not the name of a file"):
        read(folder, [box(image)], skip_missing=True)


def test_boxes_without_area_and_broken_images(folder: Path) -> None:
    found, notes = read(folder, [box(7), box(7, bbox=[5, 5, 0, 3]), box(139, bbox=[50, 0, 3, 3])])
    assert found == {"000000000139.png": [], "7.png": EXPECTED}
    assert notes[0].startswith("Skipped 2 of 3 boxes")
    (folder / "dogs/rex.png").write_text("no picture")
    found, notes = read(folder, [box(7), box("rex")])
    assert list(found) == ["7.png"]
    assert "Skipped 1 of 2 images" in notes[0]
    with pytest.raises(ImageError, match="None of the images"):
        read(folder, [box("rex")])


@pytest.mark.parametrize("content", [[], {}, {"images": []}, [{"image_id": 7}], 7, [box(7, bbox=[1, 2, 3])]])
def test_other_files_are_refused(folder: Path, content: Any) -> None:
    with pytest.raises(AnnotationError, match="holds no detections|is not a COCO-results file"):
        read(folder, content)
