"""`evaluate --results`: COCO results that others score, with the same AP."""

import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner, Result

from mixqsam.cli.main import app
from mixqsam.pipeline.evaluate import result_paths


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXQSAM_CACHE", str(tmp_path / "cache"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_pycocotools_gives_the_same_ap(coco: Path, tmp_path: Path) -> None:
    annotations, results = coco / "annotations/instances_val2017.json", tmp_path / "results.json"
    command = ["evaluate", "sam-tiny", "-i", coco / "val2017", "--annotations", annotations, "--limit", 6]
    # The second run takes the masks from the cache.
    for _ in range(2):
        done = run(*command, "--results", results, "--json")
        assert done.exit_code == 0, done.output
        answer = json.loads(done.stdout)
        assert [one["path"] for one in answer["made"]] == [str(results)]
        ours = answer["models"]["float"]["coco"]
        written = json.loads(results.read_text())
        assert set(written[0]) == {"image_id", "category_id", "segmentation", "score"}
        truth = COCO(str(annotations))
        judge = COCOeval(truth, truth.loadRes(str(results)), "segm")
        first = [image["id"] for image in json.loads(annotations.read_text())["images"]]
        judge.params.imgIds = [image for image in first if image in {one["image_id"] for one in written}]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        assert [ours[name] for name in ("ap", "ap50", "ap75")] == pytest.approx(
            [100 * value for value in judge.stats[:3]], abs=1e-8
        )
        assert ours["ap"] > 1


def test_several_models_have_a_file_each(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert result_paths(path, ["float"]) == {"float": path}
    assert result_paths(path, ["float", "out"]) == {"out": path}
    assert result_paths(path, ["float", "my out", "b/c"]) == {
        "my out": tmp_path / "r-1-my_out.json",
        "b/c": tmp_path / "r-2-c.json",
    }


def test_results_need_annotations(picture_folder: Path, tmp_path: Path) -> None:
    done = run("evaluate", "sam-tiny", "-i", picture_folder, "--results", tmp_path / "r.json")
    assert done.exit_code == 2
    assert "COCO results need --annotations" in " ".join(done.output.split())
