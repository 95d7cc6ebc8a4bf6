"""Which images calibration takes of many: a seeded sample, spread over folders, without decoding the others."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from mixqsam.allocation.budget import Budget
from mixqsam.data import images as reading
from mixqsam.data.coco import annotated_samples
from mixqsam.data.samples import Sample, draw_calibration_samples, draw_samples, folder_samples, spread
from mixqsam.errors import AnnotationError
from mixqsam.pipeline.options import AnalysisOptions, Data, Evaluation, Options, Session
from mixqsam.pipeline.quantize import run_quantization
from mixqsam.pipeline.stages import calibration_samples
from mixqsam.progress import Silent
from tests.conftest import draw

COUNTS = {"cats": 40, "dogs": 40, "zebras": 3}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for kind, count in COUNTS.items():
        (folder / kind).mkdir()
        for index in range(count):
            Image.new("RGB", (64, 40), (index, index, 90)).save(folder / kind / f"{index:02}.png")
    return folder


def kinds(samples: list[Sample]) -> Counter[str]:
    return Counter(sample.path.parent.name for sample in samples)


def chosen(zoo: Path, session: Session, *, count: int = 12, seed: int = 0) -> list[Sample]:
    return calibration_samples(Data(zoo, grid=2), AnalysisOptions(count=count, seed=seed), session)


def test_every_folder_has_its_share(zoo: Path, session: Session) -> None:
    found = chosen(zoo, session)
    assert kinds(found) == {"cats": 5, "dogs": 4, "zebras": 3} or kinds(found) == {"cats": 4, "dogs": 5, "zebras": 3}
    assert [one.path for one in found] == sorted(one.path for one in found)
    # Not the first by name.
    assert {one.path.name for one in found if one.path.parent.name == "cats"} != {f"{i:02}.png" for i in range(5)}


def test_the_same_seed_gives_the_same_images(zoo: Path, session: Session) -> None:
    paths = [one.path for one in chosen(zoo, session)]
    assert [one.path for one in chosen(zoo, session)] == paths
    assert [one.path for one in chosen(zoo, session, seed=1)] != paths
    assert len(chosen(zoo, session, seed=-1)) == 12
    assert {one.path for one in chosen(zoo, session, count=6)} < set(paths)
    assert len(chosen(zoo, session, count=1000)) == sum(COUNTS.values())


def test_an_order_has_every_image_once() -> None:
    paths = [Path(f"{folder}/{i}") for folder in "abc" for i in range(7)]
    order = spread(paths, seed=3)
    assert sorted(order) == list(range(21))
    assert order != spread(paths, seed=4)
    for turn in range(7):
        assert {paths[i].parent.name for i in order[3 * turn : 3 * turn + 3]} == {"a", "b", "c"}


def test_others_are_not_decoded(zoo: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    plain = reading.decode_image

    def decode(source: Path, *, name: str) -> Image.Image:
        decoded.append(name)
        return plain(source, name=name)

    monkeypatch.setattr(reading, "decode_image", decode)
    chosen(zoo, session, count=5)
    assert len(set(decoded)) == 5
    decoded.clear()
    assert len(folder_samples(zoo, count=None, grid=2, progress=Silent())) == sum(COUNTS.values())
    assert decoded == []


def test_annotated_images_are_sampled_too(zoo: Path) -> None:
    names = [f"{kind}/{i:02}.png" for kind in ("cats", "dogs") for i in range(20)]
    content = {
        "images": [{"id": i, "file_name": name, "width": 64, "height": 40} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 20, 20]} for i in range(len(names)) if i % 4
        ],
    }
    path = zoo / "a.json"
    path.write_text(json.dumps(content))
    samples = annotated_samples(path, images=zoo)
    found = draw_calibration_samples(samples, count=10, prompts=1, progress=Silent(), seed=5)
    assert kinds(found) == {"cats": 5, "dogs": 5}
    assert all(one.image_id % 4 for one in found)
    assert [one.image_id for one in found] == sorted(one.image_id for one in found)
    assert kinds(draw_samples(samples, count=4, seed=5)) == {"cats": 2, "dogs": 2}
    assert draw_samples(samples, count=None, seed=5) == samples


def test_images_with_numbers_below_zero_have_their_prompts(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", width=40, height=30, seed=1)
    boxes = [{"id": i, "image_id": -7, "category_id": 1, "bbox": [i, 1, 9, 9]} for i in range(9)]
    content = {"images": [{"id": -7, "file_name": "a.png", "width": 40, "height": 30}], "annotations": boxes}
    (tmp_path / "a.json").write_text(json.dumps(content))
    samples = annotated_samples(tmp_path / "a.json", images=tmp_path)
    (sample,) = draw_calibration_samples(samples, count=1, prompts=3, progress=Silent())
    assert len(sample.prompts) == 3


def test_the_summary_says_which_images_and_on_what_quality_was_measured(
    zoo: Path, model_directory: Path, tmp_path: Path, session: Session
) -> None:
    options = Options(analysis=AnalysisOptions(count=4, seed=7))
    result = run_quantization(
        model_directory,
        Data(zoo, grid=2),
        budget=Budget.parse("W8A8"),
        output=tmp_path / "q",
        options=options,
        session=session,
    )
    calibration, check = result.run.calibration, result.run.check
    assert calibration is not None
    assert check is not None
    assert (calibration.seed, len(calibration.images)) == (7, 4)
    assert {Path(name).parent.name for name in calibration.images} == set(COUNTS)
    assert (check.kind, check.images, check.prompts, check.seen) == ("grid points", 8, 32, False)
    assert result.check["mixed"].basis == "8 images with 32 prompts (grid points)"
    # The images that it was measured on are spread too.
    looked_at = {Path(one.path) for one in result.check["mixed"].by_image}
    assert {path.parent.name for path in looked_at} >= {"cats", "dogs"}
    summary = (tmp_path / "q/summary.md").read_text()
    assert "Calibrated on the 4 images below, drawn with seed 7" in summary
    assert "Quality is measured on 8 images with 32 prompts (grid points); the calibration did not use them." in summary
    assert all(f"`{name}`" in summary for name in calibration.images)
    assert "(grid points)" in (tmp_path / "q/report.html").read_text()


def test_boxes_without_masks_calibrate_and_are_not_scored_against(
    zoo: Path, model_directory: Path, tmp_path: Path, session: Session
) -> None:
    content = {
        "images": [{"id": i, "file_name": f"cats/{i:02}.png", "width": 64, "height": 40} for i in range(6)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 20, 20], "segmentation": []} for i in range(6)
        ],
    }
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    options = Options(analysis=AnalysisOptions(count=2, fisher_draws=2))
    result = run_quantization(
        model_directory,
        Data(zoo, path),
        budget=Budget.parse("W8A8"),
        output=tmp_path / "q",
        options=options,
        session=session,
    )
    assert result.check["mixed"].coco is None
    assert result.check["mixed"].basis == "4 images with 4 prompts (annotated boxes)"
    assert isinstance(session.progress, Silent)
    assert any(
        "holds no masks, so the models are compared with the float one only" in n for n in session.progress.notes
    )
    # Annotations that are named for judging have to hold masks; that is said before the long work.
    with pytest.raises(AnnotationError, match="holds no masks"):
        run_quantization(
            model_directory,
            Data(zoo, grid=2),
            budget=Budget.parse("W8A8"),
            output=tmp_path / "r",
            options=options,
            session=session,
            evaluation=Evaluation(Data(zoo, path)),
        )
    assert not (tmp_path / "r").exists()
