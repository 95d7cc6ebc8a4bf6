"""The page in headless Chromium, as a visitor uses it. Screenshots are kept in out/screenshots."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.web import click, serve_folder, wait_for_answer, wait_until

from mixqsam.data.images import open_image
from mixqsam.data.samples import Sample
from mixqsam.deployed.names import DECODER
from mixqsam.sam.load import load_sam
from tests.browser import open_chromium, take_picture, watch_faults
from tests.web.conftest import export_page, iou, mask_of, masks_of_python

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_chromium() as one:
        yield one


def open_page(browser: Any, address: str, *, width: int, scheme: str = "light") -> Any:
    """The page with its model on the way."""
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.faults = watch_faults(page)
    page.goto(f"{address}?device=wasm")
    wait_until(page, "state.settings")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    return page


def test_masks_are_those_of_python_on_any_host(
    browser: Any, samples: list[Sample], runtime_package: Path, picture: Path, tmp_path: Path
) -> None:
    """One thread, because the server sends no headers; the embedded model; the picture's own pixels."""
    folder = export_page(load_sam("sam-tiny"), samples, tmp_path, runtime_package)
    prompts, found = [], []
    with serve_folder(folder) as address:
        page = open_page(browser, address, width=1280)
        page.set_input_files("#file", picture)
        wait_until(page, "state.picture")
        for x, y, button in ((0.5, 0.5, "left"), (0.6, 0.4, "left"), (0.1, 0.9, "right")):
            click(page, x, y, button=button)
            wait_for_answer(page)
            prompts.append(page.evaluate("state.points"))
            found.append(mask_of(page))
        assert [label for _, _, label in prompts[-1]] == [1, 1, 0]
        assert "with 1 thread." in page.inner_text("#figures")
        assert page.locator("#loading").is_hidden()
        take_picture(page, "web-desktop")
        assert page.faults == []
        page.close()
    expected = masks_of_python(folder, tmp_path / "unpacked", picture, prompts)
    assert all(one.any() for one in expected)
    assert min(map(iou, found, expected)) >= 0.99


def test_points_are_set_and_taken_back(browser: Any, tiny_page: Path, tmp_path: Path) -> None:
    with serve_folder(tiny_page, isolated=True) as address:
        page = open_page(browser, address, width=390, scheme="dark")
        wait_until(page, "state.picture")
        # A click before the model is loaded waits for it.
        click(page, 0.5, 0.5)
        wait_for_answer(page)
        assert page.evaluate("state.seconds.threads") == min(4, os.cpu_count() or 1)
        first = mask_of(page)
        page.click("[data-label='0']")
        click(page, 0.2, 0.2)
        wait_for_answer(page)
        assert [label for _, _, label in page.evaluate("state.points")] == [1, 0]
        take_picture(page, "web-phone")
        page.click("#undo")
        wait_for_answer(page)
        assert np.array_equal(mask_of(page), first)
        with page.expect_download() as download:
            page.click("#save")
        saved = np.asarray(open_image(Path(download.value.path())))[..., 0] > 127
        assert np.array_equal(saved, first)
        page.click("#clear")
        assert page.evaluate("state.mask === null && state.points.length === 0")
        assert page.locator("#save").is_disabled()
        (tmp_path / "bad.png").write_text("no picture")
        page.set_input_files("#file", tmp_path / "bad.png")
        page.wait_for_selector("#message.bad")
        assert "bad.png is not a picture" in page.inner_text("#message")
        assert page.faults == []
        page.close()


def test_the_keyboard_is_enough(browser: Any, tiny_page: Path) -> None:
    with serve_folder(tiny_page) as address:
        page = open_page(browser, address, width=1280)
        wait_until(page, "state.picture")
        start = page.evaluate("state.cross")
        page.locator("#clear").press("Tab")
        page.locator("#view").focus()
        for key in ("ArrowRight", "ArrowDown", "Enter", "ArrowLeft", "b"):
            page.keyboard.press(key)
        points = page.evaluate("state.points")
        step = max(page.evaluate("[state.picture.width, state.picture.height]")) / 40
        assert points == [[start[0] + step, start[1] + step, 1], [start[0], start[1] + step, 0]]
        wait_for_answer(page)
        page.keyboard.press("Backspace")
        assert page.evaluate("state.points") == points[:1]
        assert page.faults == []
        page.close()


def test_what_cannot_be_loaded_is_named(browser: Any, tiny_page: Path, tmp_path: Path) -> None:
    for path in tiny_page.iterdir():
        if path.name != f"{DECODER}.onnx.gz":
            (tmp_path / path.name).symlink_to(path)
    with serve_folder(tmp_path) as address:
        page = browser.new_page()
        page.goto(f"{address}?device=wasm")
        page.wait_for_selector("#message.bad")
        message = page.inner_text("#message")
        assert message == f"The model cannot be loaded: {DECODER}.onnx.gz cannot be loaded: the server answered 404."
        page.close()
