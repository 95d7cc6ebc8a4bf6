"""Names of float models that say the size of the frame."""

from pathlib import Path
from typing import Any

import pytest

from mixqsam.errors import InputError
from mixqsam.options.frames import split_frame, with_frame


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sam-tiny", ("sam-tiny", None)),
        ("sam-tiny@128", ("sam-tiny", 128)),
        ("facebook/sam3@504", ("facebook/sam3", 504)),
        ("a@b", ("a@b", None)),
        ("a@128@64", ("a@128", 64)),
        ("@128", ("@128", None)),
        (Path("folder") / "model@128", ("folder/model", 128)),
    ],
)
def test_a_name_is_split(name: str, expected: tuple[str, int | None]) -> None:
    assert split_frame(name) == expected


def test_a_file_of_such_a_name_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "model@128").touch()
    assert split_frame(tmp_path / "model@128") == (str(tmp_path / "model@128"), None)
    assert split_frame(tmp_path / "model@128@64") == (str(tmp_path / "model@128"), 64)


def test_a_side_is_added_once() -> None:
    assert with_frame("sam-tiny", None) == "sam-tiny"
    assert with_frame("sam-tiny", 128) == with_frame("sam-tiny@128", 128) == "sam-tiny@128"
    assert with_frame("sam-tiny@128", None) == "sam-tiny@128"
    with pytest.raises(InputError, match="sam-tiny@128 and the image size 64 contradict each other"):
        with_frame("sam-tiny@128", 64)


@pytest.mark.parametrize("side", [0, -16, 12.5, True, "512"])
def test_a_side_is_a_number_of_pixels(side: Any) -> None:
    with pytest.raises(InputError, match="a whole number of pixels is expected, at least 1"):
        with_frame("sam-tiny", side)
