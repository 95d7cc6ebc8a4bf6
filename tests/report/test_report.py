"""The report: what it says, that it stands alone, and what it does with bad records."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from mixqsam.allocation.budget import Budget
from mixqsam.cli.main import app
from mixqsam.evaluation.evaluate import ImageScore
from mixqsam.families import prepare
from mixqsam.families.mobile_sam import make_processor
from mixqsam.measurements import Analysis
from mixqsam.pipeline.examples import choose_images, choose_prompt
from mixqsam.pipeline.options import AnalysisOptions, Data, Evaluation, Options, Session
from mixqsam.pipeline.quantize import run_quantization
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.reporting.network import describe, network_svg, unit_facts
from mixqsam.reporting.overlay import GAINED, LOST, draw_difference
from mixqsam.reporting.scatter import Level, Point, frontier, scatter_svg
from mixqsam.sam.load import Sam
from tests.families.released import random_mobile_sam, tiny_config

SVG = "{http://www.w3.org/2000/svg}"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def workplace(model_directory: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`first` (W4A4) and `second` (W6A6), measured on the same pictures."""
    folder = tmp_path_factory.mktemp("reports")
    for name, budget in (("first", "W4A4"), ("second", "W6A6")):
        run_quantization(
            model_directory,
            Data(picture_folder, grid=2),
            budget=Budget.parse(budget),
            output=folder / name,
            options=Options(analysis=AnalysisOptions(count=2, fisher_draws=2)),
            session=Session(command=f"mixqsam quantize --budget {budget} <&>"),
            evaluation=Evaluation(Data(picture_folder, grid=2)),
        )
    return folder


class Page(HTMLParser):
    """Tags that are open and closed, what they refer to, and the text."""

    EMPTY = ("meta", "img", "br", "wbr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"style", "script"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_quantize_writes_a_report_that_stands_alone(workplace: Path) -> None:
    text = (workplace / "first/report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    pictures = [source for source in page.sources if source != "#worst"]
    assert len(pictures) == len(page.sources) - 1 == 12
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)
    assert '<h3 id="worst">' in text
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    for words in (
        "Budget W4A4",
        "uniform W4A4",
        "Proven optimal",
        "Quality was measured on 3 images with 12 prompts (grid points); the calibration used them, too",
        "mixqsam quantize --budget W4A4 <&>",
        "Worst image",
        "Of its 4 masks, the one with the lowest IoU is drawn: ",
    ):
        assert words in page.text
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem", 'name="viewport"'):
        assert rule in text
    facts = json.loads((workplace / "first/run.json").read_text())
    assert {"python", "torch", "transformers", "mixqsam"} <= set(facts["versions"])
    assert {"loading", "analysis", "allocation", "quantization", "check"} <= set(facts["seconds"])
    assert f"{facts['models']['mixed']['mean_iou']:.3f}" in page.text


def test_the_picture_has_a_column_for_every_unit(workplace: Path) -> None:
    analysis = Analysis.from_json(json.loads((workplace / "first/analysis.json").read_text()), source="analysis")
    allocation = json.loads((workplace / "first/allocation.json").read_text())
    plan = BitPlan.from_json(allocation["plan"])
    facts = unit_facts(analysis, plan, allocation["objective"])
    root = ElementTree.fromstring(network_svg(facts))  # noqa: S314  (our own text)
    units = [one for one in root.iter(f"{SVG}g") if one.get("class") == "unit"]
    assert len(units) == len(analysis.units)
    for unit, one in zip(units, facts, strict=True):
        title = unit.find(f"{SVG}title")
        assert title is not None
        assert title.text == describe(one)
        assert one["name"] in describe(one)
        bars = [bar.get("class") for bar in unit.iter(f"{SVG}rect")]
        assert bars[:2] == [f"b{one['weight']}", f"b{one['activation']}"]
    assert sorted(one["rank"] for one in facts) == list(range(1, len(facts) + 1))
    top = min(facts, key=lambda one: one["rank"])
    assert top["importance"] == max(one["importance"] for one in facts)


def test_labels_of_narrow_blocks_do_not_meet() -> None:
    model = random_mobile_sam(tiny_config())
    sam = Sam(prepare(model).eval(), make_processor(model.config), "tiny MobileSAM")
    analysis = Analysis("model", 1, sam.costs(), {}, {}, {}, (), {})
    plan = BitPlan.uniform(analysis.units, UnitBits(16, 4))
    root = ElementTree.fromstring(network_svg(unit_facts(analysis, plan, None)))  # noqa: S314  (our own text)
    rows: dict[str, float] = {}
    labels = [text for text in root.iter(f"{SVG}text") if text.get("class") == "block"]
    assert any(len(text.text or "") > 5 for text in labels)
    for text in labels:
        middle, half = float(text.get("x", "")), 3 * len(text.text or "")
        assert middle - half >= rows.get(text.get("y", ""), 0.0), text.text
        rows[text.get("y", "")] = middle + half
    assert len(rows) == 2


def test_several_budgets_are_drawn_by_size(workplace: Path, tmp_path: Path) -> None:
    done = run("report", workplace / "first", workplace / "second", "-o", tmp_path / "both.html")
    assert done.exit_code == 0, done.output
    page = Page((tmp_path / "both.html").read_text(encoding="utf-8"))
    for words in ("Quality against size", "second", "uniform W6A6", "Pareto-optimal"):
        assert words in page.text
    assert "Quality against size" not in Page((workplace / "first/report.html").read_text(encoding="utf-8")).text


def test_models_that_saw_other_images_are_left_out_and_named(
    workplace: Path, model_directory: Path, picture_folder: Path, tmp_path: Path
) -> None:
    command = ["quantize", "-m", model_directory, "-i", picture_folder, "--grid", 3, "--fisher-draws", 2]
    done = run(*command, "-o", tmp_path / "other", "--check", 1)
    assert done.exit_code == 0, done.output
    report = tmp_path / "both.html"
    assert run("report", workplace / "first", tmp_path / "other", "-o", report).exit_code == 0
    assert "other was measured on other images" in Page(report.read_text(encoding="utf-8")).text


def test_a_report_on_images_of_ones_own(workplace: Path, picture_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(picture_folder / "a.png", images / "mine.png")
    report = tmp_path / "report.html"
    arguments = ["report", workplace / "first", workplace / "second", "-i", images, "--grid", 2, "-o", report]
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["report"] == str(report)
    text = Page(report.read_text(encoding="utf-8")).text
    for words in ("Evaluation on your images", "1 image with 4 prompts", "Median image: mine.png", "Pareto-optimal"):
        assert words in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "x"}, "is not the record of a run"),
        ({"version": 9}, "version"),
        ({"surprise": 1}, "surprise"),
        ({"file_bytes": -1}, "file_bytes"),
    ],
)
def test_a_bad_record_is_refused(workplace: Path, tmp_path: Path, change: dict[str, object], words: str) -> None:
    shutil.copytree(workplace / "first", tmp_path / "bad")
    record = tmp_path / "bad/run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | change))
    before = (tmp_path / "bad/report.html").read_bytes()
    done = run("report", tmp_path / "bad")
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())
    assert (tmp_path / "bad/report.html").read_bytes() == before


def test_pictures_outside_of_the_directory_are_not_followed(workplace: Path, tmp_path: Path) -> None:
    shutil.copytree(workplace / "first", tmp_path / "bad")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    record = tmp_path / "bad/run.json"
    run_json = json.loads(record.read_text())
    run_json["examples"][0]["pictures"] = {"float": "../secret.jpg", "mixed": str(tmp_path / "secret.jpg")}
    record.write_text(json.dumps(run_json))
    assert run("report", tmp_path / "bad").exit_code == 0
    assert "c2VjcmV0" not in (tmp_path / "bad/report.html").read_text()


def test_an_older_directory_says_what_is_missing(workplace: Path, tmp_path: Path) -> None:
    shutil.copytree(workplace / "first", tmp_path / "old")
    (tmp_path / "old/run.json").unlink()
    done = run("report", tmp_path / "old")
    assert done.exit_code == 2
    assert "expected the record of a run" in " ".join(done.output.split())


def test_hostile_names_stay_text(workplace: Path, tmp_path: Path) -> None:
    shutil.copytree(workplace / "first", tmp_path / "bad")
    for name, key in (("analysis.json", "model"), ("run.json", "command")):
        value = json.loads((tmp_path / "bad" / name).read_text())
        value[key] = "<script>alert(1)</script>"
        (tmp_path / "bad" / name).write_text(json.dumps(value))
    assert run("report", tmp_path / "bad").exit_code == 0
    text = (tmp_path / "bad/report.html").read_text()
    assert text.count("<script>") == 1
    assert "alert(1)" in text


def test_one_mask_of_an_image_is_drawn() -> None:
    ious = np.array([0.5, 0.9, 0.2, 0.7])
    assert [choose_prompt(ious, which) for which in ("worst", "median", "best")] == [2, 3, 1]
    assert choose_prompt(ious[:1], "best") == 0


def test_examples_are_the_worst_the_median_and_the_best() -> None:
    def scores(*values: float) -> list[ImageScore]:
        return [ImageScore(index, f"{index}.png", value) for index, value in enumerate(values)]

    assert choose_images([]) == {}
    assert {which: one.index for which, one in choose_images(scores(0.5)).items()} == {"median": 0}
    assert {which: one.index for which, one in choose_images(scores(0.5, 0.2)).items()} == {"worst": 1, "best": 0}
    chosen = choose_images(scores(0.5, 0.9, 0.2, 0.7, 0.6))
    assert {which: one.index for which, one in chosen.items()} == {"worst": 2, "median": 4, "best": 1}


def test_the_difference_shows_what_was_lost_and_gained() -> None:
    first, second = np.zeros((2, 20, 30), dtype=bool)
    first[:, :20], second[:, 10:] = True, True
    image = Image.new("RGB", (30, 20), (120, 120, 120))
    pixels = np.asarray(draw_difference(image, first, second), dtype=float)

    def nearest(x: int) -> tuple[int, ...]:
        return min((LOST, GAINED, (86, 130, 180)), key=lambda c: float(np.abs(pixels[5, x] - np.array(c)).sum()))

    assert [nearest(x) for x in (2, 15, 27)] == [LOST, (86, 130, 180), GAINED]


def test_the_frontier_holds_what_nothing_beats() -> None:
    points = [Point(name, "mixed", size, quality) for name, size, quality in
              (("a", 3e6, 0.9), ("b", 2e6, 0.8), ("c", 4e6, 0.85), ("d", 2e6, 0.7), ("e", 5e6, 0.95))]  # fmt: skip
    assert [one.label for one in frontier(points)] == ["b", "a", "e"]
    for some in (points, points[:1]):
        root = ElementTree.fromstring(scatter_svg(some, level=Level("float", 1.0), quality="IoU <&>"))  # noqa: S314
        circles = list(root.iter(f"{SVG}circle"))
        assert len(circles) == len(some)
        assert all(0 < float(c.get("cx", 0)) < 720 and 0 < float(c.get("cy", 0)) < 360 for c in circles)


def test_reports_load_no_torch() -> None:
    code = (
        "import sys, mixqsam.reporting.page, mixqsam.reporting.record\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_check_images_are_those_that_calibration_left_over(
    model_directory: Path, picture_folder: Path, tmp_path: Path
) -> None:
    arguments = ["quantize", "-m", model_directory, "-i", picture_folder, "--grid", 2, "--count", 2]
    arguments += ["--fisher-draws", 2]
    done = run(*arguments, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    check = json.loads((tmp_path / "out/run.json").read_text())["check"]
    assert (check["images"], check["seen"]) == (1, False)
    done = run(*arguments, "-o", tmp_path / "none", "--check", 0, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["run"]["check"] is None
    assert not (tmp_path / "none/examples").exists()
