"""The encoder on WebGPU; apart from the other tests of the page, whose browser has other flags."""

from pathlib import Path

import pytest
from benchmarks.web import SOFTWARE_GPU, click, serve_folder, wait_for_answer, wait_until

from tests.browser import open_chromium, watch_faults
from tests.web.conftest import iou, mask_of, masks_of_python

pytestmark = pytest.mark.slow


def test_webgpu_gives_the_masks_of_python(tiny_page: Path, picture: Path, tmp_path: Path) -> None:
    with open_chromium(*SOFTWARE_GPU) as browser, serve_folder(tiny_page) as address:
        page = browser.new_page()
        faults = watch_faults(page)
        page.goto(f"{address}?device=webgpu")
        if not page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
            pytest.skip("needs a Chromium with WebGPU, in software (SwiftShader) or on a graphics card")
        page.set_input_files("#file", picture)
        wait_until(page, "state.picture && !document.querySelector('.sample[aria-pressed=true]')")
        click(page, 0.5, 0.5)
        wait_for_answer(page)
        assert "on the graphics card" in page.inner_text("#figures")
        points, found = page.evaluate("state.points"), mask_of(page)
        assert faults == []
        page.close()
    (expected,) = masks_of_python(tiny_page, tmp_path / "unpacked", picture, [points])
    assert expected.any()
    assert iou(found, expected) >= 0.95
