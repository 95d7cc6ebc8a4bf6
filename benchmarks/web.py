"""How long a visitor of an exported page waits: for the first mask, and for the next ones, in headless Chromium.

    python -m benchmarks.web OUT_WEB --output docs/data/web.json

OUT_WEB is a directory of `mixqsam export --format web` with a picture (`--example`). A server on this machine sends it:
without headers, so that one thread computes, and with those that isolate a page. About a minute on 2 cores.
"""

import argparse
import contextlib
import functools
import http.server
import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.performance_tables import line
from mixqsam.files import read_json, write_json
from mixqsam.web.page import SETTINGS

ISOLATING = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
# Chromium's own software for WebGPU, where there is no graphics card.
SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
# Where the second and later points are, as shares of the picture.
PLACES = ((0.45, 0.45), (0.6, 0.5), (0.4, 0.6), (0.5, 0.7), (0.7, 0.6), (0.3, 0.5))


@contextlib.contextmanager
def serve_folder(folder: Path, *, isolated: bool = False) -> Iterator[str]:
    """Send a folder's files at any port, as a static host does; yields the address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def end_headers(self) -> None:
            """Add the headers that isolate a page."""
            for name, value in ISOLATING.items() if isolated else ():
                self.send_header(name, value)
            super().end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def find_chromium() -> str | None:
    """The browser's program; None if there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def click(page: Any, x: float, y: float, *, button: str = "left") -> None:
    """Click on the picture at shares of its width and height."""
    area = page.locator("#view").bounding_box()
    page.mouse.click(area["x"] + x * area["width"], area["y"] + y * area["height"], button=button)


def wait_until(page: Any, condition: str, *, seconds: float = 120) -> None:
    """Wait until an expression is true; Playwright's own function needs what the page's policy forbids.

    Raises:
        TimeoutError: it stays false; the message is the page's own.
    """
    deadline = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({condition})"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition}: {page.inner_text('#message')}")
        time.sleep(0.01)


def wait_for_answer(page: Any, *, seconds: float = 120) -> None:
    """Wait until the mask of all points is there."""
    wait_until(page, "state.mask && !state.running", seconds=seconds)


def measure(browser: Any, address: str) -> dict[str, Any]:
    """Visit the page once with nothing cached, and click as soon as there is a picture."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(address)
    wait_until(page, "state.picture")
    click(page, *PLACES[0])
    wait_for_answer(page)
    first, next_ones = page.evaluate("performance.now() / 1000"), []
    for place in PLACES[1:]:
        started = page.evaluate("performance.now() / 1000")
        click(page, *place)
        wait_for_answer(page)
        next_ones.append(page.evaluate("performance.now() / 1000") - started)
    seconds = page.evaluate("state.seconds")
    context.close()
    return {
        "threads": seconds["threads"],
        "first_mask": round(first, 3),
        "picture": round(seconds["encode"], 3),
        "next_mask": round(statistics.median(next_ones), 3),
    }


def run(folder: Path, *, rounds: int) -> dict[str, Any]:
    """Visit the page so often, without and with the headers."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    settings = read_json(folder / SETTINGS, what="a page's settings")
    runtime = sum(one["bytes"] for one in settings["runtimes"]["wasm"].values())
    content: dict[str, Any] = {
        "model": settings["encoder"]["bytes"] + settings["decoder"]["bytes"],
        "runtime": runtime,
        "runtime_version": settings["runtime_version"],
        "visits": {},
        # Runnable processes beside the browser, in the mean of the last minute.
        "load": round(os.getloadavg()[0], 1),
        "machine": machine(),
    }
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        content["browser"] = browser.version
        for name, isolated in (("any host", False), ("isolated", True)):
            with serve_folder(folder, isolated=isolated) as address:
                content["visits"][name] = [measure(browser, f"{address}?device=wasm") for _ in range(rounds)]
        browser.close()
    return content


def table(content: dict[str, Any]) -> str:
    """Medians as Markdown, and what was measured."""
    lines = [line(["host", "threads", "first mask", "of it, the picture", "next mask"]), line(["---", *["---:"] * 4])]
    for name, visits in content["visits"].items():
        cells = [
            f"{statistics.median(visit[key] for visit in visits):.2f} s"
            for key in ("first_mask", "picture", "next_mask")
        ]
        lines.append(line([name, str(visits[0]["threads"]), *cells]))
    one = content["machine"]
    setup = (
        f"(Chromium {content['browser'].split('.')[0]}, ONNX Runtime Web {content['runtime_version']}, {one['cpu']}, "
    )
    return "\n".join([*lines, "", f"{setup}{one['cores']} cores, load {content['load']} from other processes)"])


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/data/web.json"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    content = run(arguments.folder, rounds=arguments.rounds)
    write_json(arguments.output, content)
    print(table(content))


if __name__ == "__main__":
    main()
