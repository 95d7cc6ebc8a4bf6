"""Every block of code in the README and in docs/ runs as it is written, page by page, in a folder where its files are.

The folder has a tiny random SAM under the name `facebook/sam-vit-base`, a tiny DETR, drawn pictures, annotations. What
this machine cannot do in seconds is changed, and nothing else: `--device cuda` becomes cpu, a command launched by
torchrun runs in one process, reconstructions take 3 iterations, `--recipes all` are two (each has tests of its own),
comparisons have one budget, segmenting everything has a grid of 4 × 4, pages other than the README round to nearest
where they name no recipe, Fisher sensitivities have 4 draws, `benchmark` does not measure memory, `serve` does not wait
for visitors, `push` sends nothing, and the embedded model is the tiny one too. Commands that install are checked for
what they name.
"""

import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.tiny import quantize
from PIL import Image
from typer.testing import CliRunner

from mixqsam.cli.main import app
from mixqsam.data import demo
from mixqsam.families import FAMILIES
from mixqsam.families.compatibility import random_model
from mixqsam.options.names import RECONSTRUCTING_RECIPES
from tests.conftest import draw

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
# What is shown and not run: output, and figures.
SHOWN = {"text"}


@dataclass(frozen=True)
class Block:
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


WITH_CODE = [page for page in PAGES if any(one.language not in SHOWN for one in blocks(page))]


@pytest.fixture(scope="module")
def workplace(model_directory: Path, detector_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the pages' commands name."""
    folder = tmp_path_factory.mktemp("documented")
    for name in ("facebook/sam-vit-base", "YOUR_SAM", "sam-tiny"):
        shutil.copytree(model_directory, folder / name)
    with torch.no_grad():
        random_model(FAMILIES["sam2"]).save_pretrained(folder / "facebook/sam2.1-hiera-base-plus")
    shutil.copytree(detector_directory, folder / "PekingU/rtdetr_r50vd")
    for name, count in (("photos", 6), ("val2017", 3), ("COCO/train2017", 5), ("COCO/val2017", 2)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            draw(folder / name / f"{index}.jpg", width=64, height=60, seed=index)
    for file, count in (
        ("instances_val2017.json", 3),
        ("COCO/annotations/instances_train2017.json", 5),
        ("COCO/annotations/instances_val2017.json", 2),
    ):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(annotations(count)))
    box = {"category_id": 1, "bbox": [8, 8, 44, 44], "score": 0.9}
    for name in ("yolox.json", "faster-rcnn.json"):
        (folder / name).write_text(json.dumps([{"image_id": i + 1, **box} for i in range(2)]))
    for name in ("ade", "dota"):
        (folder / name / "images").mkdir(parents=True)
        draw(folder / name / "images/P0001.png", width=64, height=60, seed=1)
    (folder / "ade/labels").mkdir()
    labels = np.zeros((60, 64), dtype=np.uint8)
    labels[10:50, 10:50] = 1
    Image.fromarray(labels).save(folder / "ade/labels/P0001.png")
    (folder / "dota/labelTxt").mkdir()
    (folder / "dota/labelTxt/P0001.txt").write_text("10 10 50 10 50 50 10 50 plane 0\n")
    (folder / "task2").mkdir()
    (folder / "task2/Task2_plane.txt").write_text("P0001 0.9 10 10 50 50\n")
    draw(folder / "photo.jpg", width=64, height=60, seed=0)
    quantize(folder / "facebook/sam-vit-base", folder / "photos", folder / "out", check=1)
    return folder


def annotations(count: int) -> dict[str, Any]:
    shape = [10, 10, 50, 10, 50, 50, 10, 50]
    instance = {"category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0, "segmentation": [shape]}
    return {
        "images": [{"id": i + 1, "file_name": f"{i}.jpg", "width": 64, "height": 60} for i in range(count)],
        "annotations": [{"id": i + 1, "image_id": i + 1, **instance} for i in range(count)],
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "hot dog"}],
    }


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages calibrate and analyse the same model on the same pictures: once is enough."""
    return tmp_path_factory.mktemp("documented-cache")


@pytest.fixture
def here(workplace: Path, shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, for one page, in which the embedded model is the tiny one."""
    folder = tmp_path / "here"
    shutil.copytree(workplace, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MIXQSAM_CACHE", str(shared_cache))
    return folder


def commands(code: str) -> list[list[str]]:
    """The commands of a block of shell, without comments."""
    joined = code.replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in joined.splitlines()]
    split: list[list[str]] = []
    for words in lines:
        current: list[str] = []
        for word in words:
            if word == "&&":
                split.append(current)
                current = []
            else:
                current.append(word)
        split.append(current)
    return [words for words in split if words]


def run_shell(words: list[str], folder: Path, *, quickly: bool) -> None:
    name = Path(words[0]).name
    if "torch.distributed.run" in words:
        words = ["mixqsam", *words[words.index("mixqsam") + 1 :]]
        name = "mixqsam"
    if name == "mixqsam":
        run_mixqsam(words[1:], folder, quickly=quickly)
    elif name in {"install", "test", "check", "screenshots", "site"}:
        assert os.access(ROOT / words[0], os.X_OK), words
    elif name == "pip":
        check_extras(words)
    elif name in {"python", "python3"}:
        check_module(words, folder)
    elif name == "mkdocs":
        assert (ROOT / "mkdocs.yml").is_file()
    elif name == "cp":
        assert all((folder / one).exists() for one in words[1:-1]), words
    else:
        pytest.fail(f"No test knows the command {words}.")


def run_mixqsam(arguments: list[str], folder: Path, *, quickly: bool) -> None:
    changed = ["cpu" if word == "cuda" else word for word in arguments]
    changed = ["minmax,adaround" if word == "all" else word for word in changed]
    # The frame of the pages' models has 80 pixels.
    for option, value in (("--processes", "1"), ("--cache", str(folder / "cache")), ("--image-size", "64")):
        if option in changed:
            changed[changed.index(option) + 1] = value
    if changed[0] == "compare":
        changed = keep_one_budget(changed)
    changed += shortening(changed, quickly=quickly)
    if "-o" in changed and changed[0] in {"quantize", "compare", "export"}:
        # A page's reader begins with an empty place.
        shutil.rmtree(folder / changed[changed.index("-o") + 1], ignore_errors=True)
    done = CliRunner().invoke(app, changed)
    assert done.exit_code == 0, f"mixqsam {shlex.join(changed)}\n{done.output}"


def shortening(given: list[str], *, quickly: bool) -> list[str]:
    """Options that make a command shorter, where the page does not say otherwise."""
    command, more = given[0], []
    # `quantize` refuses the first for a recipe that only rounds.
    if command == "compare" or (command == "quantize" and set(RECONSTRUCTING_RECIPES) & set(given)):
        more += ["--iterations", "3"]
    if command in {"quantize", "analyze", "compare"} and not {"--fisher-draws", "--config"} & set(given):
        more += ["--fisher-draws", "4"]
    if quickly and command == "quantize" and not {"--recipe", "-r", "--config", "--preset"} & set(given):
        more += ["--recipe", "omse"]
    if command == "benchmark" and "--units" not in given:
        more += ["--no-memory"]
    if command.endswith("-automatic"):
        # The last value of an option counts.
        more += ["--side", "4"]
    return more


def keep_one_budget(arguments: list[str]) -> list[str]:
    """A comparison at the first of its budgets; it has tests of its own."""
    places = [place for place, word in enumerate(arguments) if word == "-b"]
    if not places:
        return [*arguments, "-b", "W6A6"]
    return [word for place, word in enumerate(arguments) if not {place, place - 1} & set(places[1:])]


def check_module(words: list[str], folder: Path) -> None:
    """A module of ours is there, and so is the page that Python's server would send."""
    module = words[words.index("-m") + 1]
    if module == "http.server":
        assert (folder / words[-1] / "index.html").is_file(), words
    else:
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), words


def check_extras(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        for extra in re.findall(r"mixqsam\[([\w,]+)\]", word):
            assert set(extra.split(",")) <= set(extras), words


def small_demonstration(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The demonstration's photographs are pictures of the folder."""
    from mixqsam.data.samples import Sample
    from mixqsam.prompts import Prompts

    box = Prompts(boxes=np.array([[10.0, 10.0, 50.0, 50.0]]))
    some = [Sample(folder / f"photos/{index}.jpg", 64, 60, box) for index in range(6)]

    def samples(photographs: Any, *, grid: int = 0) -> list[Sample]:
        return some[:4] if photographs is demo.CALIBRATION else some[4:]

    from mixqsam.pipeline import demo as running

    monkeypatch.setattr(running, "demo_samples", samples)


def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent to the hub."""
    from mixqsam.pipeline import push

    monkeypatch.setattr(push, "send", lambda planned, *, private: f"https://huggingface.co/{planned.repository}")


def needs_extras(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for word, module in (
        ("onnx", "onnxruntime"),
        ("openvino", "openvino"),
        ("evaluate-oriented", "shapely"),
        ("mixqsam serve", "uvicorn"),
    ):
        if word in text:
            pytest.importorskip(module)


def give_runtime(page: Path, package: Callable[[], Path], cache: Path) -> None:
    """The browser's runtime in the cache of a page that exports for it."""
    if "--format web" in page.read_text(encoding="utf-8"):
        (cache / "released").mkdir(parents=True)
        shutil.copy(package(), cache / "released")


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(
    page: Path, get_runtime_package: Callable[[], Path], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_extras(page)
    give_runtime(page, get_runtime_package, here.parent / "cache")
    small_demonstration(monkeypatch, here)
    no_hub(monkeypatch)
    uvicorn = pytest.importorskip("uvicorn") if "mixqsam serve" in page.read_text(encoding="utf-8") else None
    if uvicorn is not None:
        monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    for block in blocks(page):
        if block.language in SHOWN:
            continue
        if block.language == "toml":
            # Pages call it so.
            (here / "run.toml").write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.code, str(page), "exec"), {"__name__": "documented"})  # noqa: S102  (our own text)
        else:
            assert block.language == "sh", f"{page}: no test runs {block.language!r}"
            for words in commands(block.code):
                run_shell(words, here, quickly=page.name != "README.md")


def test_pages_and_their_code_are_found() -> None:
    assert len(PAGES) > 25
    assert len(WITH_CODE) > 12
    readme = blocks(ROOT / "README.md")
    assert [one.language for one in readme] == ["sh", "sh", "sh", "python"]
    assert len(readme[2].code.splitlines()) == 3
    assert len([line for line in readme[3].code.splitlines() if line]) == 5


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f" {page.relative_to(ROOT / 'docs')}\n" in navigation


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    import subprocess

    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "mixqsam allocate" in (tmp_path / "site/cli/index.html").read_text(encoding="utf-8")
