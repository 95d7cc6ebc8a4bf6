"""Chromium for tests of pages."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from benchmarks.web import find_chromium


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
