"""Files of boxes: one without a name, or several with detectors' names."""

from pathlib import Path
from typing import Any

import pytest

from mixqsam.cli.command import line
from mixqsam.cli.config import read_settings
from mixqsam.errors import InputError
from mixqsam.options.fields import Nested
from mixqsam.options.flat import assemble, flat_values
from mixqsam.pipeline.options import Data, Evaluation
from mixqsam.progress import Silent

NAMED = {"yolox": Path("a.json"), "faster-rcnn": Path("b.json")}


def boxes(value: Any) -> Any:
    return Data(Path("photos"), boxes=value).boxes


@pytest.mark.parametrize("value", ["a.json", ["a.json"], Path("a.json")])
def test_one_file_needs_no_name(value: Any) -> None:
    assert boxes(value) == Path("a.json")


@pytest.mark.parametrize(
    "value",
    [
        ["yolox=a.json", "faster-rcnn=b.json"],
        ("yolox=a.json", " faster-rcnn =b.json"),
        NAMED,
        {"yolox": "a.json", "faster-rcnn": "b.json"},
    ],
)
def test_several_files_have_names(value: Any) -> None:
    assert list(boxes(value).items()) == list(NAMED.items())


def test_a_path_may_hold_the_sign_that_ends_a_name() -> None:
    assert boxes("runs/lr=3/a.json") == Path("runs/lr=3/a.json")
    assert boxes("./lr=3.json") == Path("lr=3.json")
    assert boxes("dino=runs/lr=3/a.json") == {"dino": Path("runs/lr=3/a.json")}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["a.json", "b.json"], "boxes a.json: each of several files of boxes needs a name; write NAME=a.json"),
        (["yolox=a.json", "b.json"], "boxes b.json: each of several files of boxes needs a name"),
        (["yolox=a.json", "yolox=b.json"], "a.json and b.json both have the name yolox; give every file another name"),
        (["=a.json"], "boxes =a.json: the name before = is empty; write NAME=FILE"),
        (["yolox="], "boxes yolox=: the file after = is missing"),
        (["a|b=a.json"], "boxes a.json: the name 'a|b' is not valid; a name has at most 40 letters"),
        ({"": "a.json"}, "the name '' is not valid"),
        ({"yolox": 7}, "boxes 7: a path is expected"),
        ({}, "names no file; give one, or NAME=FILE"),
        ([], "names no file"),
        ([7], "boxes 7: a file is expected, or NAME=FILE"),
        (7, "boxes 7: a file is expected, or NAME=FILE"),
        ([f"yolox={'x' * 9999}", f"yolox={'y' * 9999}"], "…"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(value: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        boxes(value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_named_files_are_recorded_and_spelled_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nested = Nested(prefix="eval_")
    recorded = flat_values(Evaluation(Data(Path("photos"), boxes=NAMED)), nested)
    assert recorded["eval_boxes"] == [f"yolox={tmp_path}/a.json", f"faster-rcnn={tmp_path}/b.json"]
    again = Evaluation(**assemble(Evaluation, recorded, nested)).data
    assert isinstance(again, Data)
    assert again.boxes == {name: tmp_path / file for name, file in NAMED.items()}
    assert f"--eval-boxes yolox={tmp_path}/a.json --eval-boxes faster-rcnn={tmp_path}/b.json" in line(
        "compare", recorded
    )
    assert line("evaluate", {"boxes": Path("a.json")}) == "mixqsam evaluate --boxes a.json"
    assert flat_values(Data(Path("photos"), boxes=Path("a.json")))["boxes"] == str(tmp_path / "a.json")


def test_a_file_of_options_names_them_in_a_list_or_a_table(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    for text in (
        'eval-boxes = ["yolox=a.json", "faster-rcnn=b.json"]',
        '[eval-boxes]\nyolox = "a.json"\nfaster-rcnn = "b.json"',
    ):
        file.write_text(text)
        assert boxes(read_settings(file)["eval_boxes"]) == NAMED


def test_where_one_file_is_expected_several_are_refused() -> None:
    with pytest.raises(InputError, match=r"Boxes come from 2 files here \(yolox, faster-rcnn\), and one is expected"):
        Data(Path("photos"), boxes=NAMED).samples(count=None, progress=Silent())
