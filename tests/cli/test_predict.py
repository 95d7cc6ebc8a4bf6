"""`predict`: a file for each mask, and run lengths that others read."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from mixqsam.cli.main import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_several_boxes_give_a_black_and_white_file_each_and_run_lengths(picture_folder: Path, tmp_path: Path) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    boxes = ["--box", "5,5,40,30", "--box", "10,2,60,38"]
    done = run("predict", picture_folder / "a.png", *boxes, "-o", tmp_path / "m.png", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert [one["file"] for one in answer["masks"]] == [str(tmp_path / f"m-{number}.png") for number in (1, 2)]
    assert [one["path"] for one in answer["made"]] == [one["file"] for one in answer["masks"]]
    assert not (tmp_path / "m.png").exists()
    for one in answer["masks"]:
        pixels = np.asarray(Image.open(one["file"]))
        assert set(np.unique(pixels)) == {0, 255}
        assert (pixels > 0).sum() == one["pixels"]
        assert (mask_tools.decode(one["segmentation"]) == (pixels > 0)).all()
    # One prompt has the file that was named.
    assert run("predict", picture_folder / "a.png", *boxes[:2], "-o", tmp_path / "m.png").exit_code == 0
    assert (tmp_path / "m.png").is_file()


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ("40,5,5,30", "has x1 > x2: corners are swapped; write 5,5,40,30"),
        ("5,30,40,5", "has y1 > y2: corners are swapped; write 5,5,40,30"),
        ("40,30,5,5", "has x1 > x2 and y1 > y2: corners are swapped; write 5,5,40,30"),
        ("5,5,5,30", "has no area inside the image of 64×40 pixels"),
    ],
)
def test_a_box_without_area_says_why(picture_folder: Path, tmp_path: Path, box: str, words: str) -> None:
    done = run("predict", picture_folder / "a.png", "--box", box, "-o", tmp_path / "m.png")
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())
