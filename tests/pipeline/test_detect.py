import json
from pathlib import Path

import pytest

from mixqsam.data.coco import annotated_samples
from mixqsam.detection.detector import Detector
from mixqsam.errors import AnnotationError
from mixqsam.pipeline.detect import run_detection
from mixqsam.pipeline.options import Session
from mixqsam.pipeline.tasks import DetectionOptions


@pytest.fixture
def annotations(tmp_path: Path, picture_folder: Path) -> Path:
    images = [
        {"id": 1, "file_name": "a.png", "width": 64, "height": 40},
        {"id": 2, "file_name": "b.jpg", "width": 40, "height": 64},
    ]
    boxes = [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [2, 2, 20, 20], "iscrowd": 0}]
    categories = [{"id": 5, "name": "Disc"}, {"id": 6, "name": "hot dog"}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


def run(
    directory: Path, images: Path, annotations: Path, session: Session, **options: float
) -> list[dict[str, object]]:
    return run_detection(
        directory,
        images=images,
        annotations=annotations,
        output=annotations.parent / "boxes.json",
        options=DetectionOptions(**options),  # type: ignore[arg-type]
        session=session,
    )


def test_boxes_are_written_once_and_prompt_the_evaluation(
    detector_directory: Path, picture_folder: Path, annotations: Path, session: Session
) -> None:
    found = run(detector_directory, picture_folder, annotations, session)
    assert json.loads((annotations.parent / "boxes.json").read_text()) == found
    assert {one["image_id"] for one in found} == {1, 2}
    assert {one["category_id"] for one in found} <= {5, 6}
    samples = annotated_samples(annotations, images=picture_folder, detections=annotations.parent / "boxes.json")
    assert sum(len(sample.prompts) for sample in samples) == len(found)
    assert samples[0].scores is not None
    assert list(samples[0].scores) == sorted(samples[0].scores, reverse=True)
    assert len(run(detector_directory, picture_folder, annotations, session, top=2)) == 4


def test_images_that_were_done_are_not_done_again(
    detector_directory: Path,
    picture_folder: Path,
    annotations: Path,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = run(detector_directory, picture_folder, annotations, session)
    monkeypatch.setattr(Detector, "detect", lambda *_, **__: pytest.fail("detected again"))
    assert run(detector_directory, picture_folder, annotations, session) == first


def test_nothing_found_is_an_error_and_leaves_no_file(
    detector_directory: Path, picture_folder: Path, annotations: Path, session: Session
) -> None:
    with pytest.raises(AnnotationError, match="finds no box with a score of at least 1"):
        run(detector_directory, picture_folder, annotations, session, score=1.0)
    assert not (annotations.parent / "boxes.json").exists()


@pytest.mark.parametrize(
    ("categories", "message"),
    [([{"id": 5, "name": "ship"}], "no category in common"), ([], "names no categories")],
)
def test_categories_that_do_not_match_are_refused(
    detector_directory: Path,
    picture_folder: Path,
    annotations: Path,
    session: Session,
    categories: list[object],
    message: str,
) -> None:
    content = json.loads(annotations.read_text()) | {"categories": categories}
    annotations.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=message):
        run(detector_directory, picture_folder, annotations, session)


def test_boxes_of_another_data_set_are_refused(annotations: Path, picture_folder: Path) -> None:
    path = annotations.parent / "foreign.json"
    for image, category, message in ((9, 5, "belongs to image 9"), (1, 77, "has category 77, which")):
        path.write_text(json.dumps([{"image_id": image, "category_id": category, "bbox": [1, 1, 9, 9], "score": 0.5}]))
        with pytest.raises(AnnotationError, match=message):
            annotated_samples(annotations, images=picture_folder, detections=path)
