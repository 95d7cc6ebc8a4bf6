"""The directory of `export --format web`: what lies in it, the form of its graphs, and what is refused."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.tiny import quantize
from typer.testing import CliRunner, Result

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import save_model
from mixqsam.calibrate import calibrate
from mixqsam.cli.main import app
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import ONNX
from mixqsam.deployed.names import DECODER, ENCODER
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.families import FAMILIES, prepare
from mixqsam.families.compatibility import random_model
from mixqsam.families.mobile_sam import make_processor
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam, load_sam
from mixqsam.web.page import SETTINGS
from tests.conftest import draw
from tests.families.released import random_mobile_sam, tiny_config
from tests.oracles import nearest
from tests.web.conftest import unpack

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from mixqsam.exporting.files import ExportOptions, export  # noqa: E402

SHORT = {onnx.TensorProto.UINT4, onnx.TensorProto.INT4}


@pytest.fixture(scope="module")
def quantized(model_directory: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize(model_directory, picture_folder, tmp_path_factory.mktemp("web") / "out")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def text_of(result: Result) -> str:
    return " ".join(result.output.split())


def graphs(model: Any) -> Iterator[Any]:
    """A model's graph, and those inside of its nodes."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [one.g for node in graph.node for one in node.attribute if one.HasField("g")]


@pytest.mark.parametrize("bits", [UnitBits(4, 4), UnitBits(3, 16), UnitBits(8, 8)], ids=str)
@pytest.mark.parametrize("family", ["sam", "mobile_sam"])
def test_graphs_have_what_browsers_compute(
    sam: Sam, samples: list[Sample], tmp_path: Path, family: str, bits: UnitBits
) -> None:
    """WebGPU neither unpacks 4-bit codes nor guesses the dilations of a convolution."""
    if family == "mobile_sam":
        config = tiny_config()
        sam = Sam(prepare(random_mobile_sam(config)).requires_grad_(False), make_processor(config), "mobile-sam")
    plan = BitPlan.uniform(sam.costs().units, bits)
    model = nearest(sam, plan, calibrate(sam, samples, observer="minmax", progress=Silent()))
    manifest = Manifest.of(model, plan, recipe="minmax", prompts_per_image=1)
    export(model, manifest, tmp_path, backend=ONNX, options=ExportOptions(single=True, byte_codes=True))
    for name in (ENCODER, DECODER):
        file = onnx.load(str(tmp_path / f"{name}.onnx"))
        convolutions = 0
        for graph in graphs(file):
            assert not {one.data_type for one in graph.initializer} & SHORT
            for node in graph.node:
                if node.op_type in {"Conv", "ConvTranspose"}:
                    convolutions += 1
                    assert "dilations" in {one.name for one in node.attribute}, node.name
        assert convolutions > 0


@pytest.fixture
def written(quantized: Path, empty_package: Path, tmp_path: Path) -> Path:
    picture = draw(tmp_path / "large.png", width=2000, height=500, seed=1)
    done = run(
        "export", quantized, "--format", "web", "-o", tmp_path / "page", "--runtime-package", empty_package,
        "--example", picture,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "A visitor downloads" in done.output
    assert "python -m http.server --directory" in text_of(done)
    return tmp_path / "page"


def test_the_page_has_all_that_it_names_and_nothing_from_elsewhere(written: Path) -> None:
    settings = json.loads((written / SETTINGS).read_text())
    runtimes = [one for files in settings["runtimes"].values() for one in files.values()]
    listed = {SETTINGS, "index.html", "worker.js", "pixels.js", *settings["examples"]}
    listed |= set(re.findall(r'(?:href|src)="(?!data:)([^"]+)"', (written / "index.html").read_text()))
    for entry in (settings["encoder"], settings["decoder"], *runtimes):
        path = written / entry["file"].split("?")[0]
        assert path.stat().st_size == entry["bytes"]
        listed.add(path.relative_to(written).as_posix())
    assert {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()} == listed
    for path in (*written.glob("*.js"), *written.glob("*.css"), *written.glob("*.html")):
        assert "://" not in path.read_text(), path
    # Servers that do not know a type send scripts that browsers refuse.
    assert {path.suffix for path in written.rglob("*") if path.is_file()} == {
        ".js", ".css", ".html", ".json", ".gz", ".jpg",
    }  # fmt: skip
    script = settings["runtimes"]["wasm"]["script"]["file"].split("?")[0]
    assert (written / script).read_text() == "content of ort.wasm.min.mjs"
    binary = settings["runtimes"]["webgpu"]["binary"]["file"].split("?")[0]
    assert b"asyncify.wasm" in gzip.decompress((written / binary).read_bytes())


def test_the_compressed_model_gives_the_masks_of_the_other_formats(
    written: Path, quantized: Path, tmp_path: Path
) -> None:
    assert run("export", quantized, "-o", tmp_path / "onnx", "--single-mask").exit_code == 0
    picture = np.random.default_rng(0).integers(0, 256, (60, 64, 3), dtype=np.uint8)
    found = []
    for folder in (unpack(written, tmp_path / "unpacked"), tmp_path / "onnx"):
        predictor = ExportedPredictor(folder, backend="onnx")
        predictor.set_image(picture)
        found.append(predictor.predict([[20, 30]], [1], multimask_output=False)[2])
    np.testing.assert_allclose(found[0], found[1], atol=1e-4 * np.abs(found[1]).max())


def test_the_same_model_gives_the_same_files(written: Path, quantized: Path, empty_package: Path) -> None:
    before = {path.name: path.read_bytes() for path in written.iterdir() if path.suffix in {".gz", ".js", ".css"}}
    arguments = ("export", quantized, "--format", "web", "-o", written, "--runtime-package", empty_package)
    refused = run(*arguments)
    assert refused.exit_code == 4
    assert "--overwrite" in refused.output
    assert run(*arguments, "--overwrite").exit_code == 0
    assert before == {path.name: (written / path.name).read_bytes() for path in map(Path, before)}
    assert not (written / "examples").exists()


def test_what_is_refused(quantized: Path, model_directory: Path, empty_package: Path, tmp_path: Path) -> None:
    page, package = tmp_path / "page", ("--runtime-package", empty_package)
    for arguments, words in (
        ((quantized, "--format", "web", "--raw-image"), "the page has one form of files"),
        ((quantized, "--format", "web", "--compatible"), "the page has one form of files"),
        ((quantized, "--format", "onnx", *package), "are for --format web"),
        ((quantized, "--format", "tflite"), "choose onnx, openvino, web"),
        ((model_directory, "--format", "web", *package), "is not a quantized directory"),
        ((quantized, "--format", "web", *package, "--example", tmp_path / "none.png"), "none.png does not exist"),
        ((quantized, "--format", "web", "--runtime-package", tmp_path / "none.tgz"), "none.tgz cannot be read"),
    ):
        done = run("export", *arguments, "-o", page)
        assert done.exit_code == 2, done.output
        assert words.lower() in text_of(done).lower()
        assert {path.name for path in tmp_path.iterdir()} == {empty_package.name}


def test_other_families_are_refused_by_name(empty_package: Path, tmp_path: Path) -> None:
    with torch.no_grad():
        random_model(FAMILIES["sam2"]).save_pretrained(tmp_path / "sam2")
    sam = load_sam(tmp_path / "sam2")
    (tmp_path / "out").mkdir()
    save_model(sam, Manifest.of(sam, sam.costs().float_plan, recipe="none", prompts_per_image=1), tmp_path / "out")
    done = run("export", tmp_path / "out", "--format", "web", "-o", tmp_path / "x", "--runtime-package", empty_package)
    assert done.exit_code == 2
    assert "is a 'sam2' model; the page runs models of type 'sam', 'mobile_sam'" in text_of(done)
    assert not (tmp_path / "x").exists()
