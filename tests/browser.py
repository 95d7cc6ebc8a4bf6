"""Chromium for tests of pages."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmarks.web import find_chromium

# Where tests leave pictures of pages, to be looked at.
SCREENSHOTS = Path(os.environ.get("MIXQSAM_SCREENSHOTS") or Path(__file__).parents[1] / "out/screenshots")


def take_picture(page: Any, name: str) -> None:
    """Keep a picture of a whole page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@contextmanager
def open_chromium(*flags: str) -> Iterator[Any]:
    """Headless Chromium; the test is skipped where it or Playwright is missing."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", *flags])
        yield browser
        browser.close()


def watch_faults(page: Any) -> list[str]:
    """What a page reports as errors from now on."""
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    return faults
