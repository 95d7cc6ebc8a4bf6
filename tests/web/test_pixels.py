"""The page's JavaScript prepares pictures as Python does."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mixqsam.deployed.image import Preprocessing
from mixqsam.resize import resized_size
from mixqsam.web.page import STATIC

# Larger and smaller than the frame, square, thin, and as it is.
SIZES = ((60, 100), (31, 23), (64, 64), (1, 200), (48, 64), (100, 37), (300, 2))
# Of the last ones, Pillow 13 scales the columns first, and older versions the rows; the bytes between round otherwise.
TALL = 2
SETTINGS = Preprocessing(size=72, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), raw=False, longest=64)


def run_node(folder: Path, script: str) -> Any:
    """What a script prints as JSON; it finds the page's module beside it."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node, which runs the page's JavaScript (apt-get install nodejs)")
    shutil.copy(STATIC / "pixels.js", folder / "pixels.mjs")
    (folder / "script.mjs").write_text(script)
    done = subprocess.run([node, "script.mjs"], cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_frames_are_those_of_pillow_and_numpy(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (*size, 4), dtype=np.uint8) for i, size in enumerate(SIZES)]
    (tmp_path / "pictures.bin").write_bytes(b"".join(one.tobytes() for one in pictures))
    image = {"side": 72, "longest": 64, "factor": SETTINGS.factor, "mean": SETTINGS.mean, "std": SETTINGS.std}
    script = f"""
        import {{ readFileSync, writeFileSync }} from "node:fs";
        import {{ makeFrame }} from "./pixels.mjs";
        const bytes = readFileSync("pictures.bin");
        const frames = [];
        let start = 0;
        for (const [height, width] of {json.dumps(SIZES)}) {{
          const rgba = new Uint8ClampedArray(bytes.subarray(start, (start += 4 * height * width)));
          frames.push(Buffer.from(makeFrame(rgba, height, width, {json.dumps(image)}).buffer));
        }}
        writeFileSync("frames.bin", Buffer.concat(frames));
        console.log(frames.length);
    """
    assert run_node(tmp_path, script) == len(SIZES)
    found = np.frombuffer((tmp_path / "frames.bin").read_bytes(), np.float32).reshape(len(SIZES), 1, 3, 72, 72)
    expected = [SETTINGS.frame(Image.fromarray(picture[..., :3])) for picture in pictures]
    np.testing.assert_array_equal(found[:-TALL], expected[:-TALL])
    # One step of a byte.
    np.testing.assert_allclose(found, expected, atol=1.01 / 255 / min(SETTINGS.std))


def test_sizes_are_those_of_python(tmp_path: Path) -> None:
    sizes = [(height, width) for height in range(1, 400, 7) for width in (1, 2, 33, 500, 1023, 1024, 1333)]
    script = f"""
        import {{ drawnSize, resizedSize }} from "./pixels.mjs";
        const sizes = {json.dumps(sizes)};
        console.log(JSON.stringify(sizes.map(([h, w]) => [resizedSize(h, w, 1024), drawnSize(h, w, 8)])));
    """
    found = run_node(tmp_path, script)
    for (height, width), (resized, drawn) in zip(sizes, found, strict=True):
        assert tuple(resized) == resized_size(height, width, side=1024)
        # Every drawn side is at least half a pixel in a frame of 8.
        assert min(drawn) * 8 / max(drawn) >= 0.5
        assert [max(height, drawn[0]), max(width, drawn[1])] == drawn
