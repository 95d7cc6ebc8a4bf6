"""COCO files as people's tools write them: ids, sizes, areas, boxes and masks of every kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle

from mixqsam.data.coco import annotated_samples
from mixqsam.data.dota import read_labels
from mixqsam.data.records import read_annotations, read_file_ids, whole_number
from mixqsam.errors import AnnotationError, ImageError, MixqsamError
from mixqsam.evaluation.coco import Truth, mask_results
from mixqsam.evaluation.evaluate import EvaluationResult, evaluate
from mixqsam.files import read_json
from mixqsam.pipeline.options import Data
from mixqsam.prediction import Prediction
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts
from tests.conftest import draw

WIDTH, HEIGHT = 64, 60
# [x, y, width, height] of the objects of every image, and how large they count: 900 pixels, 2,000 pixels.
SQUARES = ((4, 6, 30, 30), (10, 8, 50, 40))
Content = dict[str, Any]


def square(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    x, y, width, height = box
    mask[y : y + height, x : x + width] = True
    return mask


def base() -> Content:
    """Four images with two objects each, as it should be."""
    images: list[dict[str, Any]] = [
        {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(1, 5)
    ]
    annotations = [
        {
            "id": 2 * (image["id"] - 1) + place + 1,
            "image_id": image["id"],
            "category_id": place + 1,
            "bbox": list(box),
            "iscrowd": 0,
            "area": box[2] * box[3],
            "segmentation": {
                "size": [HEIGHT, WIDTH],
                "counts": rle.encode(np.asfortranarray(square(box).astype(np.uint8)))["counts"].decode(),
            },
        }
        for image in images
        for place, box in enumerate(SQUARES)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "small"}, {"id": 2, "name": "medium"}],
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("field")
    for i in range(1, 5):
        draw(folder / f"{i}.png", width=WIDTH, height=HEIGHT, seed=i)
    return folder


class Oracle:
    """A predictor that answers every box with the rectangle that it is."""

    def set_image(self, image: object) -> None:
        pass

    def segment(self, prompts: Prompts, *, multimask: bool = False, full: bool = False) -> Prediction:
        del multimask, full
        assert prompts.boxes is not None
        boxes = prompts.boxes.astype(int)
        masks = np.stack([square((x1, y1, x2 - x1, y2 - y1)) for x1, y1, x2, y2 in boxes])[:, None]
        return Prediction(
            masks, np.ones((len(boxes), 1), np.float32), masks[..., ::4, ::4].astype(np.float32), (15, 16)
        )


def judged(content: Content, pictures: Path, folder: Path, **options: Any) -> tuple[EvaluationResult, list[str]]:
    """What a perfect model scores, and what was noted."""
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    progress = Silent()
    samples = annotated_samples(path, images=pictures, progress=progress, **options)
    report = evaluate({"oracle": Oracle()}, samples, annotations=path, progress=progress)["oracle"]  # type: ignore[dict-item]
    return report, progress.notes


def each(content: Content, part: str, change: Callable[[Content], object]) -> Content:
    for entry in content[part]:
        change(entry)
    return content


def renumbered(content: Content, *, image: Callable[[int], Any], annotation: Callable[[int], Any]) -> Content:
    each(content, "images", lambda one: one.update(id=image(one["id"])))
    return each(
        content, "annotations", lambda one: one.update(id=annotation(one["id"]), image_id=image(one["image_id"]))
    )


def same(number: int) -> int:
    return number


NUMBERINGS: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {
    "plain": (same, same),
    "annotations from 0": (same, lambda n: n - 1),
    "annotations below 0": (same, lambda n: -n),
    "annotations above 2^63": (same, lambda n: 2**63 + n),
    "annotations above 2^64": (same, lambda n: 2**70 + n),
    "images from 0": (lambda n: n - 1, same),
    "images below 0": (lambda n: -n, same),
    "images above 2^63": (lambda n: 2**63 + n, same),
    "all as text": (str, str),
    "images as text": (str, same),
    "annotations as text": (same, str),
    "all as floats": (float, float),
    "text of floats": (lambda n: f"{n}.0", lambda n: f" {n} "),
}


@pytest.mark.parametrize("name", NUMBERINGS)
def test_ids_of_any_kind_do_not_change_the_score(pictures: Path, tmp_path: Path, name: str) -> None:
    image, annotation = NUMBERINGS[name]
    report, notes = judged(renumbered(base(), image=image, annotation=annotation), pictures, tmp_path)
    assert report.coco is not None
    assert (report.coco.ap, report.coco.small, report.coco.medium) == pytest.approx((100, 100, 100))
    assert (report.truth_iou, report.prompts, notes) == (1, 8, [])


@pytest.mark.parametrize("change", [lambda n: n - 1, lambda n: -n, str, float, lambda n: 2**63 + n])
def test_categories_of_any_kind_do_not_change_the_score(
    pictures: Path, tmp_path: Path, change: Callable[[int], Any]
) -> None:
    content = each(base(), "categories", lambda one: one.update(id=change(one["id"])))
    each(content, "annotations", lambda one: one.update(category_id=change(one["category_id"])))
    report, _ = judged(content, pictures, tmp_path)
    assert report.coco is not None
    assert report.coco.ap == pytest.approx(100)
    del content["categories"]
    report, _ = judged(content, pictures, tmp_path)
    assert report.coco is not None
    assert report.coco.ap == pytest.approx(100)


def test_one_place_as_text_and_the_other_as_a_number(pictures: Path, tmp_path: Path) -> None:
    content = each(base(), "annotations", lambda one: one.update(image_id=str(one["image_id"])))
    report, _ = judged(content, pictures, tmp_path)
    assert report.coco is not None
    assert report.coco.ap == pytest.approx(100)


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), ("3", 3), (" -3 ", -3), ("+4", 4), (3.0, 3), ("3.0", 3), ("007", 7), (2**80, 2**80), (str(2**80), 2**80)],
)
def test_what_is_exactly_a_whole_number(value: object, number: int) -> None:
    assert whole_number(value) == number


@pytest.mark.parametrize("value", [None, True, 3.5, "3.5", "", "a", "1e400", 1e300, [1], {}, "٣", "x" * 100_000])
def test_what_is_not_a_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="is not a whole number") as caught:
        whole_number(value)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("kind", [str, float, lambda value: f"{value}.0"])
def test_sizes_of_any_kind_are_numbers(pictures: Path, tmp_path: Path, kind: Callable[[int], Any]) -> None:
    content = each(base(), "images", lambda one: one.update(width=kind(WIDTH), height=kind(HEIGHT)))
    each(content, "annotations", lambda one: one["segmentation"].update(size=[kind(HEIGHT), kind(WIDTH)]))
    report, _ = judged(content, pictures, tmp_path)
    assert report.coco is not None
    assert report.coco.ap == pytest.approx(100)


@pytest.mark.parametrize("area", [None, "900", "missing", 0, -3, True, [1]])
def test_the_area_is_the_masks_where_it_is_not_a_number(pictures: Path, tmp_path: Path, area: Any) -> None:
    content = each(base(), "annotations", lambda one: one.update(area=area))
    if area == "missing":
        each(content, "annotations", lambda one: one.pop("area"))
    report, _ = judged(content, pictures, tmp_path)
    assert report.coco is not None
    assert (report.coco.small, report.coco.medium, report.coco.large) == pytest.approx((100, 100, -1))


def test_an_area_that_is_a_number_stays(pictures: Path, tmp_path: Path) -> None:
    content = each(base(), "annotations", lambda one: one.update(area=1e5))
    report, _ = judged(content, pictures, tmp_path)
    assert report.coco is not None
    assert (report.coco.small, report.coco.medium, report.coco.large) == pytest.approx((-1, -1, 100))


@pytest.mark.parametrize("iscrowd", [None, False, "0", 0.0, "missing"])
def test_what_is_not_a_crowd(pictures: Path, tmp_path: Path, iscrowd: Any) -> None:
    content = each(base(), "annotations", lambda one: one.update(iscrowd=iscrowd))
    if iscrowd == "missing":
        each(content, "annotations", lambda one: one.pop("iscrowd"))
    report, _ = judged(content, pictures, tmp_path)
    assert report.coco is not None
    assert report.coco.ap == pytest.approx(100)
    assert report.prompts == 8


def duplicate(part: str, **changes: Any) -> Callable[[Content], None]:
    return lambda content: content[part].append({**content[part][0], **changes})


REFUSED: dict[str, tuple[Callable[[Content], object], str]] = {
    "image twice": (duplicate("images"), r"two images have the id 1 \(1.png and 1.png\)"),
    "image twice as text": (duplicate("images", id="1", file_name="2.png"), r"two images have the id 1 \(1.png and 2"),
    "annotation twice": (duplicate("annotations"), "two annotations have the id 1"),
    "annotation twice as float": (duplicate("annotations", id=1.0), "two annotations have the id 1"),
    "category twice": (duplicate("categories", name="other"), "two categories have the id 1 \\('other' and|\\('small'"),
    "image of an annotation": (
        lambda content: content["annotations"][3].update(image_id=77),
        "annotation 4 belongs to image 77, which is not among the images",
    ),
    "half an id": (lambda content: content["images"][2].update(id=2.5), "images.2.id: 2.5 is not a whole number"),
    "a name for an id": (
        lambda content: content["annotations"][5].update(image_id="cat"),
        "annotations.5.image_id: 'cat' is not a whole number",
    ),
    "no id": (lambda content: content["annotations"][5].pop("id"), "annotations.5.id: Field required"),
    "half a pixel": (lambda content: content["images"][0].update(width=63.5), "images.0.width: 63.5 is not a whole"),
    "no width": (lambda content: content["images"][0].update(width=0), "images.0.width: .*greater than 0"),
    "a box of three": (lambda content: content["annotations"][0].update(bbox=[1, 2, 3]), "annotations.0.bbox"),
    "an infinite box": (lambda content: content["annotations"][0].update(bbox=[1, 2, 3, "inf"]), "annotations.0.bbox"),
    "a long text": (lambda content: content["images"][0].update(id="x" * 10**6), "images.0.id: 'xxx"),
    "all of it long": (
        lambda content: each(content, "images", lambda one: one.update(width="9" * 10**5)),
        "images.0.width: '999",
    ),
    "a long file name": (lambda content: content["images"][0].update(file_name="x" * 10**6), "file name 'xxx"),
    "a long list": (lambda content: content.update(categories="y" * 10**6), "categories: Input should be a valid list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_the_entry_in_few_words(pictures: Path, tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    content = base()
    change(content)
    with pytest.raises(MixqsamError, match=message) as caught:
        judged(content, pictures, tmp_path)
    assert len(str(caught.value)) < len(str(tmp_path)) + len(str(pictures)) + 400


def test_an_annotation_of_an_unlisted_category_is_not_scored_in_silence(pictures: Path, tmp_path: Path) -> None:
    content = base()
    content["annotations"][2]["category_id"] = 9
    with pytest.raises(AnnotationError, match="annotation 3 has category 9, which is not among its categories"):
        judged(content, pictures, tmp_path)


@pytest.mark.parametrize(
    "spoiled",
    [b"\xff\xfe" + "{}".encode("utf-16-le") * 10**5, b"{" * 10**6, b'{"images": ' + b"9" * 10**6, b"\xff" * 10**6],
)
def test_no_error_repeats_a_file(tmp_path: Path, spoiled: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(spoiled)
    readers: tuple[Callable[[], object], ...] = (
        lambda: read_annotations(path),
        lambda: Truth(path),
        lambda: read_json(path, what="a plan"),
        lambda: read_labels(path),
    )
    for read in readers:
        with pytest.raises(MixqsamError) as caught:
            read()
        assert len(str(caught.value)) < len(str(path)) + 300


# What exporters write where they have no mask.
EMPTY: list[Any] = [[], [[]], None, {}, "missing", {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}]


@pytest.mark.parametrize("empty", EMPTY)
def test_objects_without_masks_are_counted_and_not_scored(pictures: Path, tmp_path: Path, empty: Any) -> None:
    content = base()
    for index in (1, 4):
        content["annotations"][index]["segmentation"] = empty
        if empty == "missing":
            del content["annotations"][index]["segmentation"]
    report, notes = judged(content, pictures, tmp_path)
    assert report.coco is not None
    assert report.coco.ap == pytest.approx(100)
    assert report.truth_iou == 1
    (note,) = notes
    assert note.startswith("2 annotations of ")
    assert note.endswith("have no mask and are not scored; the first is annotation 2.")
    each(content, "annotations", lambda one: one.update(segmentation=[]))
    with pytest.raises(AnnotationError, match="holds no masks: all of its 8 segmentations"):
        judged(content, pictures, tmp_path)


def test_what_a_detector_finds_of_an_object_without_a_mask_is_no_mistake(pictures: Path, tmp_path: Path) -> None:
    content = base()
    content["annotations"][0]["segmentation"] = []
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    boxes = tmp_path / "boxes.json"
    keys = ("image_id", "category_id", "bbox")
    boxes.write_text(json.dumps([{**{k: one[k] for k in keys}, "score": 0.9} for one in content["annotations"]]))
    samples = annotated_samples(path, images=pictures, detections=boxes)
    report = evaluate({"oracle": Oracle()}, samples, annotations=path, progress=Silent())["oracle"]  # type: ignore[dict-item]
    assert report.coco is not None
    assert report.coco.ap == pytest.approx(100)
    assert report.prompt_kind == "detector's boxes"


DEGENERATE = [
    [5, 5, 0, 9],
    [5, 5, 9, 0],
    [5, 5, -3, 9],
    [30, 30, -5, -5],
    [WIDTH, 10, 3, 20],
    [10, HEIGHT, 3, 20],
    [-9, 5, 9, 9],
    [-90, -90, 20, 20],
    [500, 500, 10, 10],
]


@pytest.mark.parametrize("box", DEGENERATE)
def test_boxes_without_area_are_skipped_counted_and_named(pictures: Path, tmp_path: Path, box: list[float]) -> None:
    content = base()
    content["annotations"][2]["bbox"] = content["annotations"][5]["bbox"] = box
    report, notes = judged(content, pictures, tmp_path)
    assert report.prompts == 6
    assert report.truth_iou == 1
    (note,) = notes
    assert note.startswith("Skipped 2 of 8 boxes of ")
    assert "the first is annotation 3, image 2 (2.png): [x, y, width, height] = " in note
    assert str([float(value) for value in box]) in note
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image_id": i, "category_id": 1, "bbox": b, "score": 1} for i, b in
                                ((1, [1, 1, 9, 9]), (3, box))]))  # fmt: skip
    progress = Silent()
    samples = annotated_samples(tmp_path / "annotations.json", images=pictures, detections=path, progress=progress)
    assert sum(len(one.prompts) for one in samples) == 1
    assert "Skipped 1 of 2 boxes" in progress.notes[0]
    assert "the first is image 3 (3.png)" in progress.notes[0]


def test_missing_images_are_refused_or_left_out(pictures: Path, tmp_path: Path) -> None:
    content = base()
    content["images"][1]["file_name"] = "gone.png"
    content["images"][2]["file_name"] = "gone too.png"
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ImageError, match=r"gone.png is missing.*2 of 4 images.*--skip-missing"):
        Data(pictures, path).samples(count=None, progress=Silent())
    progress = Silent()
    samples = Data(pictures, path, skip_missing=True).samples(count=None, progress=progress)
    assert [one.image_id for one in samples] == [1, 4]
    assert progress.notes[0].startswith("Left out 2 of 4 images")
    assert "gone.png" in progress.notes[0]
    report = evaluate({"oracle": Oracle()}, samples, annotations=path, progress=progress)["oracle"]  # type: ignore[dict-item]
    assert report.coco is not None
    assert report.coco.ap == pytest.approx(100)
    assert report.images == 2
    for one in content["images"]:
        one["file_name"] = "x" + one["file_name"]
    path.write_text(json.dumps(content))
    with pytest.raises(ImageError, match="4 of 4 images are missing"):
        Data(pictures, path, skip_missing=True).samples(count=None, progress=Silent())


def test_results_carry_the_users_own_ids(pictures: Path, tmp_path: Path) -> None:
    content = renumbered(base(), image=lambda n: f"0{n}", annotation=lambda n: -n)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    samples = annotated_samples(path, images=pictures)
    found = Oracle().segment(samples[0].prompts)
    results = mask_results(samples[0], found)
    assert [one["image_id"] for one in read_file_ids(path).restore(results)] == ["01", "01"]
    assert [one["category_id"] for one in read_file_ids(path).restore(results)] == [1, 2]


@pytest.mark.parametrize("kind", ["annotations", "detections", "dota", "json"])
def test_a_byte_order_mark_is_not_text(pictures: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.json"
    mark = b"\xef\xbb\xbf"
    if kind == "annotations":
        path.write_bytes(mark + json.dumps(base()).encode())
        assert len(annotated_samples(path, images=pictures)) == 4
        assert len(Truth(path).masks(annotated_samples(path, images=pictures)[0])) == 2  # type: ignore[arg-type]
    elif kind == "detections":
        (tmp_path / "a.json").write_text(json.dumps(base()))
        path.write_bytes(
            mark + json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 1}]).encode()
        )
        samples = annotated_samples(tmp_path / "a.json", images=pictures, detections=path)
        assert sum(len(one.prompts) for one in samples) == 1
    elif kind == "dota":
        path.write_bytes(mark + b"imagesource:GoogleEarth\n1 1 9 1 9 9 1 9 ship 0\n")
        assert read_labels(path)[0].category == "ship"
        path.write_bytes(mark + b"1 1 9 1 9 9 1 9 ship 0\n")
        assert read_labels(path)[0].corners.tolist() == [[1, 1], [9, 1], [9, 9], [1, 9]]
    else:
        path.write_bytes(mark + b'{"a": 1}')
        assert read_json(path, what="a value") == {"a": 1}
