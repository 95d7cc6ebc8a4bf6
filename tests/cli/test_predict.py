"""`predict`: a file for each mask, and run lengths that others read."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from mixqsam.cli.console import run_guarded
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
    # With several masks, no file has the photograph's name.
    image = tmp_path / "photo.png"
    image.write_bytes((picture_folder / "a.png").read_bytes())
    done = run("predict", image, *boxes, "-o", image)
    assert done.exit_code == 0, done.output
    assert image.read_bytes() == (picture_folder / "a.png").read_bytes()
    assert (tmp_path / "photo-2.png").is_file()
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


def test_an_output_is_checked_before_anything_is_computed(picture_folder: Path, tmp_path: Path) -> None:
    image, folder, file = picture_folder / "a.png", tmp_path / "folder", tmp_path / "m.json"
    folder.mkdir()
    before = image.read_bytes()
    # A model that does not exist shows that nothing was loaded.
    everything = ("predict-automatic", image, "--model", "no-such-model")
    for command, words in (
        ((*everything, "-o", folder), f"--output {folder} is a directory; name a file"),
        ((*everything, "-o", file, "--overlay", folder), f"--overlay {folder} is a directory"),
        ((*everything, "-o", image), "would replace what IMAGE names"),
        ((*everything, "-o", file, "--overlay", folder / ".." / "m.json"), "would replace what --output names"),
        (("predict", image, "--box", "5,5,40,30", "-o", image), "would replace what IMAGE names"),
        (
            ("predict", image, *2 * ("--box", "5,5,40,30"), "-o", file, "--overlay", tmp_path / "m-2.json"),
            f"--overlay {tmp_path / 'm-2.json'} would replace what --output names",
        ),
        (("benchmark", tmp_path / "no-such-model", "-o", folder), "is a directory; name a file"),
    ):
        done = run(*command)
        assert done.exit_code == 4, done.output
        assert words.replace(" ", "") in "".join(done.output.split())
    assert image.read_bytes() == before
    assert not file.exists()


@pytest.mark.parametrize(
    ("command", "option", "name", "words"),
    [
        ("predict", "-o", "x.json", "a mask is written as PNG; name a file that ends in .png."),
        ("predict", "-o", "x.jpg", "a mask is written as PNG"),
        ("predict", "-o", "x", "a mask is written as PNG"),
        ("predict", "--overlay", "x.webp", "a picture is written as PNG or JPEG; name a file that ends in .png, .jpg"),
        ("predict-automatic", "--overlay", "x.json", "a picture is written as PNG or JPEG"),
    ],
)
def test_a_picture_with_another_ending_is_refused_before_the_work(
    picture_folder: Path, tmp_path: Path, command: str, option: str, name: str, words: str
) -> None:
    prompts = ["--box", "5,5,40,30"] if command == "predict" else []
    # A model that does not exist shows that nothing was loaded.
    path = tmp_path / "missing" / name
    done = run(command, picture_folder / "a.png", *prompts, "--model", "no-such-model", option, path)
    assert done.exit_code == 4, done.output
    assert f"{path}: {words}" in " ".join(done.output.split())
    assert not path.parent.exists()


def test_endings_of_pictures_may_be_in_capitals(picture_folder: Path, tmp_path: Path) -> None:
    files = ("-o", tmp_path / "m.PNG", "--overlay", tmp_path / "o.JPEG")
    done = run("predict", picture_folder / "a.png", "--box", "5,5,40,30", *files)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "m.PNG").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "o.JPEG").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize(("resumes", "words"), [(True, "Finished stages are cached"), (False, "Nothing was left")])
def test_ctrl_c_promises_to_resume_only_where_stages_are_cached(
    resumes: bool, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    assert run_guarded(stop, debug=False, resumes=resumes) == 130
    assert words in capsys.readouterr().err


def test_a_folder_instead_of_an_image_is_named(picture_folder: Path, tmp_path: Path) -> None:
    done = run("predict-automatic", picture_folder, "-o", tmp_path / "m.json")
    assert done.exit_code == 2
    assert "is a folder; give an image file" in " ".join(done.output.split())
