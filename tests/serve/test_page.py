"""The page in headless Chromium: as a person uses it. Screenshots are kept in out/screenshots."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import open_chromium, take_picture, watch_faults
from tests.conftest import draw

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_chromium() as one:
        yield one


@pytest.fixture(scope="module")
def address(quantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mixqsam serve` as a process of its own, on any port."""
    images = tmp_path_factory.mktemp("images")
    draw(images / "first.png", width=160, height=120, seed=1)
    draw(images / "second.jpg", width=120, height=160, seed=2)
    command = [sys.executable, "-m", "mixqsam", "serve", str(quantized), "--images", str(images), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
    assert found
    yield found[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) in {0, 130}
    process.stdout.close()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["desktop", "phone"])
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    width, scheme = request.param
    one = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    one.faults = watch_faults(one)
    one.goto(address)
    one.wait_for_selector(".sample[aria-pressed=true]")
    yield one
    one.close()


def until(place: Any, words: str) -> None:
    from playwright.sync_api import expect

    expect(place).to_contain_text(words, timeout=10_000)


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.locator("#view-0").scroll_into_view_if_needed()
    area = page.locator("#view-0").bounding_box()
    places = [(area["x"] + x * area["width"], area["y"] + y * area["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=4)
    page.mouse.up()


def blue(page: Any, view: str) -> int:
    """Pixels of a canvas that a mask colours."""
    script = """view => { const c = document.getElementById(view), d = c.getContext('2d').getImageData(0, 0, c.width,
        c.height).data; let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i + 2] > d[i] + 40; return n; }"""
    return int(page.evaluate(script, view))


def sent_by(page: Any, act: Callable[[], None]) -> Any:
    """The prompt that an act of the visitor sends."""
    with page.expect_response("**/api/segment") as answer:
        act()
    assert answer.value.status == 200
    return answer.value.request.post_data_json


def test_clicks_are_points_and_can_be_taken_back(page: Any) -> None:
    click = page.locator("#view-0").click
    assert page.is_disabled("#undo")
    assert [point[2] for point in sent_by(page, click)["points"]] == [1]
    sent = sent_by(page, lambda: click(button="right", position={"x": 9, "y": 9}))
    assert [point[2] for point in sent["points"]] == [1, 0]
    assert [point[2] for point in sent_by(page, lambda: page.click("#undo"))["points"]] == [1]
    page.keyboard.press("b")
    assert page.get_attribute("[data-label='0']", "aria-checked") == "true"
    page.wait_for_selector("#save:not([disabled])")
    for button, name in (("#save", "mask.png"), ("#save-runs", "masks.json")):
        with page.expect_download() as download:
            page.click(button)
        assert download.value.suggested_filename == name
    (record,) = json.loads(Path(download.value.path()).read_text())
    runs = record["segmentation"]
    assert runs["size"] == [120, 160]
    assert sum(runs["counts"]) == 120 * 160
    pixels = int(page.locator("#figures tbody tr").last.inner_text().split("\t")[-1].replace(",", ""))
    assert sum(runs["counts"][1::2]) == record["area"] == pixels
    page.keyboard.press("Escape")
    assert page.is_hidden("#figures")
    assert page.faults == []


def test_objects_have_prompts_of_their_own_and_all_are_saved(page: Any) -> None:
    click = page.locator("#view-0").click
    chips = page.locator("#objects .chip")
    first = sent_by(page, lambda: click(position={"x": 30, "y": 30}))
    assert page.is_enabled("#new-object")
    page.keyboard.press("n")
    assert page.is_disabled("#undo")
    second = sent_by(page, lambda: click(position={"x": 60, "y": 40}))
    assert [len(second["points"]), second["points"][0] != first["points"][0]] == [1, True]
    page.wait_for_selector("#save:not([disabled])")
    with page.expect_download() as download:
        page.click("#save-runs")
    assert len(json.loads(Path(download.value.path()).read_text())) == 2
    chips.nth(0).locator("[data-act=pick]").click()
    both = sent_by(page, lambda: click(button="right", position={"x": 9, "y": 9}))
    assert [*first["points"], both["points"][1]] == both["points"]
    assert sent_by(page, lambda: page.click("#undo"))["points"] == first["points"]
    # Each object has its own mask of three.
    assert sent_by(page, lambda: page.select_option("#mask", "2"))["mask"] == 2
    chips.nth(1).locator("[data-act=pick]").click()
    assert page.input_value("#mask") == "0"
    page.keyboard.press("Delete")
    assert chips.locator("[data-act=pick]").all_inner_texts() == ["Object 1"]
    assert page.input_value("#mask") == "2"
    assert page.faults == []


def test_a_mask_of_everything_becomes_an_object(page: Any, request: pytest.FixtureRequest) -> None:
    # A model with random weights finds nothing that it is sure of; the server's own answers have tests of their own.
    left: dict[str, Any] = {
        "segmentation": {"size": [120, 160], "counts": [0, 4800, 14400]},
        "area": 4800,
        "point": [20, 60],
    }
    whole: dict[str, Any] = {
        "segmentation": {"size": [120, 160], "counts": [0, 19200]},
        "area": 19200,
        "point": [80, 60],
    }
    masks = [{**left, "choice": 1, "predicted_iou": 0.8}, {**whole, "choice": 3, "predicted_iou": 0.7}]
    asked = []

    def answer(route: Any) -> None:
        asked.append(route.request.post_data_json)
        found = [] if asked[-1]["sureness"] == "sure" else masks
        lines = [{"done": 8, "total": 64}, {"masks": found, "found": len(found)}]
        route.fulfill(body="".join(json.dumps(line) + "\n" for line in lines))

    page.route("**/api/everything", answer)
    page.click("#everything")
    until(page.locator("#message"), "2 masks on the right. The model is not as sure of them as was asked.")
    assert [(one["model"], one["side"], one["sureness"]) for one in asked] == [("out", 8, "sure"), ("out", 8, "likely")]
    take_picture(page, f"serve-everything-{request.node.callspec.id}")
    assert page.get_attribute("#everything", "aria-pressed") == "true"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # The smaller mask lies above the larger one; what was taken is gone.
    for expected in (left, whole):
        sent = sent_by(page, lambda: page.locator("#view-1").click(position={"x": 9, "y": 50}))
        assert sent["points"] == [[*expected["point"], 1]]
    assert sent["mask"] == 3
    assert page.locator("#objects .chip").count() == 2
    page.keyboard.press("Escape")
    assert page.get_attribute("#everything", "aria-pressed") == "false"
    assert page.faults == []


def test_a_box_gives_masks_side_by_side(page: Any, request: pytest.FixtureRequest) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.click("[data-name='second.jpg']")
    page.wait_for_selector("[data-name='second.jpg'][aria-pressed=true]")
    page.click("[data-name='first.png']")
    page.wait_for_selector("[data-name='first.png'][aria-pressed=true]")
    bare = blue(page, "view-0")
    drag(page, (0.1, 0.1), (0.9, 0.9))
    page.wait_for_selector("#figures:not([hidden])")
    rows = page.locator("#figures tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["float", "out"]
    assert all("ms" in row for row in rows)
    assert "IoU is" in page.inner_text("#agreement")
    pixels = [int(row.split("\t")[-1].replace(",", "")) for row in rows]
    for index in (0, 1):
        assert abs(blue(page, f"view-{index}") - bare - pixels[index]) < 0.2 * pixels[index] + 200
    page.click("[data-label='0']")
    sent = sent_by(page, lambda: drag(page, (0.5, 0.5), (0.5, 0.5)))
    assert sent["box"]
    assert sent["points"][0][2] == 0
    take_picture(page, f"serve-{request.node.callspec.id}")
    assert page.faults == []


def test_the_slider_changes_the_allocation(page: Any) -> None:
    until(page.locator("#solved"), "bits per weight; the largest uniform model within the budget is W4A4")
    before = page.inner_html("#network")
    page.evaluate(
        "for (const name of ['size', 'bitops']) { const one = document.getElementById(name); one.value = 900;"
        "one.dispatchEvent(new Event('input')); }"
    )
    # Weights and activations apart.
    until(page.locator("#solved"), "bits per weight; the largest uniform model within the budget is W6A7")
    assert page.inner_html("#network") != before
    page.locator("#network .unit").first.hover()
    assert page.inner_text("#unit-words").startswith("vision_encoder.layers.0.attn.qkv")
    assert "--budget" in page.inner_text("#command")
    until(page.locator("#expected"), "predicted by the analysis")
    page.click("#try")
    until(page.locator("#try-note"), "is on the right")
    assert page.inner_text("#name-1").startswith("out, try")
    until(page.locator("#solved"), "W6A7")
    sent = sent_by(page, page.locator("#view-0").click)
    assert sent["models"] == ["float", page.inner_text("#name-1")]
    page.select_option("#model-1", "float")
    until(page.locator("#try-note"), "float has no stored analysis")
    assert page.is_disabled("#try")
    assert page.faults == []


def test_an_upload_is_worked_on_and_a_bad_one_explained(page: Any, tmp_path: Path) -> None:
    page.set_input_files("#file", draw(tmp_path / "mine.png", width=90, height=70, seed=3))
    until(page.locator("#message"), "Click on something")
    assert page.locator(".sample").count() >= 3
    drag(page, (0.2, 0.2), (0.8, 0.8))
    page.wait_for_selector("#figures:not([hidden])")
    (tmp_path / "bad.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "bad.png")
    page.wait_for_selector("#message.bad")
    assert "not an image" in page.inner_text("#message")
    assert page.evaluate("document.getElementById('view-0').width") == 90
    # A refused upload is an answer of 400, which browsers log.
    assert all("400" in fault for fault in page.faults)
