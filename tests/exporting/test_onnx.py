import collections
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixqsam.artifact.manifest import Manifest
from mixqsam.calibrate import Ranges, calibrate
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import ONNX
from mixqsam.deployed.names import DECODER, EMBEDDING, ENCODER, METADATA
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.files import Cache
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.runtime.build import integer_model
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor
from tests.oracles import mixture, nearest

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from mixqsam.exporting import encoder as encoder_module  # noqa: E402
from mixqsam.exporting.files import Exported, ExportOptions, export  # noqa: E402

BOXES = Prompts(boxes=np.array([[5.0, 5, 30, 30], [10, 2, 38, 36], [0, 0, 63, 39]]))
POINTS = Prompts(points=np.array([[[12.0, 20], [40, 8]]]), labels=np.array([[1, 0]]))
BOTH = Prompts(boxes=np.array([[5.0, 5, 30, 30]]), points=POINTS.points, labels=POINTS.labels)


@pytest.fixture(scope="module")
def ranges(sam: Sam, samples: list[Sample]) -> Ranges:
    return calibrate(sam, samples, observer="minmax", progress=Silent())


def write(sam: Sam, plan: BitPlan, folder: Path, **options: Any) -> Exported:
    manifest = Manifest.of(sam, plan, recipe="minmax", prompts_per_image=1)
    return export(sam, manifest, folder, backend=ONNX, options=ExportOptions(**options))


def operators(path: Path) -> collections.Counter[str]:
    """Kinds of nodes of what ONNX Runtime makes of a file."""
    optimised = path.with_suffix(".optimised")
    options = runtime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(optimised), 3
    runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: collections.Counter[str] = collections.Counter()

    def count(nodes: Iterator[Any]) -> None:
        for node in nodes:
            found[node.op_type] += 1
            for attribute in node.attribute:
                count(attribute.g.node)

    count(onnx.load(str(optimised)).graph.node)
    return found


def run(folder: Path, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = runtime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def compare(mine: ExportedPredictor, theirs: SamPredictor, sample: Sample, prompts: Prompts, **how: bool) -> float:
    """Largest difference of the logits, as a share of the largest logit; masks are checked to differ hardly."""
    for predictor in (mine, theirs):
        predictor.set_image(sample.open())
    found, expected = (predictor.segment(prompts, **how) for predictor in (mine, theirs))
    assert found.masks.shape == expected.masks.shape
    assert found.visible == expected.visible
    assert (found.masks == expected.masks).mean() > 0.995
    np.testing.assert_allclose(found.scores, expected.scores, atol=0.01 * np.abs(expected.scores).max())
    return float(np.abs(found.logits - expected.logits).max() / np.abs(expected.logits).max())


@pytest.mark.parametrize("sliced", [False, True], ids=["whole", "in slices"])
@pytest.mark.parametrize("prompts", [BOXES, POINTS, BOTH], ids=["boxes", "points", "both"])
@pytest.mark.parametrize("multimask", [False, True], ids=["one", "three"])
def test_a_float_plan_gives_the_float_model(
    sam: Sam,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prompts: Prompts,
    multimask: bool,
    sliced: bool,
) -> None:
    """Where nothing is rounded, what the graphs compute has to be the model to a float's last digits."""
    if sliced:
        monkeypatch.setattr(encoder_module, "_LOGITS", 5 * 25)
    write(sam, sam.costs().float_plan, tmp_path)
    mine = ExportedPredictor(tmp_path, backend="onnx")
    for sample in samples:
        assert compare(mine, SamPredictor(sam), sample, prompts, multimask=multimask) < 1e-4


def test_a_mask_to_start_from(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    write(sam, sam.costs().float_plan, tmp_path)
    theirs = SamPredictor(sam)
    theirs.set_image(samples[0].open())
    first = theirs.segment(BOXES)
    again = Prompts(boxes=BOXES.boxes, masks=first.logits)
    assert compare(ExportedPredictor(tmp_path, backend="onnx"), theirs, samples[0], again) < 1e-4
    assert not np.array_equal(theirs.segment(again).logits, first.logits)


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_quantized_encoder_and_decoder_give_what_ours_give(
    sam: Sam, samples: list[Sample], ranges: Ranges, tmp_path: Path, bits: int
) -> None:
    """Each block on the same input: over many blocks, floats' last digits grow to whole steps in any two runtimes."""
    model = nearest(sam, BitPlan.uniform(sam.costs().units, UnitBits(bits, bits)), ranges)
    integer = integer_model(model)
    exported = write(integer, BitPlan.uniform(sam.costs().units, UnitBits(bits, bits)), tmp_path)
    assert not exported.float_units
    pixels = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        embedding = model.model.vision_encoder(pixels).last_hidden_state.numpy()
    found = run(tmp_path, ENCODER, {"x": pixels.numpy()})["image_embeddings"]
    correlation = np.corrcoef(found.ravel(), embedding.ravel())[0, 1]
    assert correlation > {2: 0.9, 4: 0.99, 5: 0.995, 8: 0.9995}[bits]
    mine, theirs = ExportedPredictor(tmp_path, backend="onnx"), SamPredictor(model)
    theirs.set_image(samples[0].open())
    mine.set_image(samples[0].open())
    assert theirs._maps is not None
    mine._maps = {EMBEDDING: theirs._maps["embedding"].numpy()}
    first, second = mine.segment(BOXES), theirs.segment(BOXES)
    assert np.corrcoef(first.logits.ravel(), second.logits.ravel())[0, 1] > {2: 0.9, 4: 0.99, 5: 0.995, 8: 0.9995}[bits]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sliced", [False, True], ids=["whole", "in slices"])
def test_products_run_on_integer_kernels(
    sam: Sam, ranges: Ranges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, sliced: bool
) -> None:
    if sliced:
        monkeypatch.setattr(encoder_module, "_LOGITS", 5 * 25)
    plan = BitPlan.uniform(sam.costs().units, UnitBits(bits, bits))
    write(integer_model(nearest(sam, plan, ranges)), plan, tmp_path)
    found = operators(tmp_path / f"{ENCODER}.onnx")
    layers = len(sam.model.vision_encoder.layers)
    integer = found["MatMulIntegerToFloat"] + found["QLinearMatMul"]
    # q, k, v, proj, lin1, lin2 and two products of each block; the neck's convolutions stay float.
    assert integer == 8 * layers, found
    assert found["Gemm"] == 0
    decoder = operators(tmp_path / f"{DECODER}.onnx")
    units = [unit for unit in sam.costs().units if unit.part == "decoder" and unit.kind == "linear"]
    assert decoder["MatMulIntegerToFloat"] + decoder["QLinearMatMul"] >= len(units), decoder


@pytest.mark.parametrize("bits", [5, 8])
def test_slices_give_what_the_whole_attention_gives(
    sam: Sam, ranges: Ranges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    """With 5 bits, keys and values are signed bytes; with 8 bits, bytes."""
    plan = BitPlan.uniform(sam.costs().units, UnitBits(bits, bits))
    model = integer_model(nearest(sam, plan, ranges))
    pixels = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(5)).numpy()
    found = []
    for logits in (encoder_module._LOGITS, 5 * 25):
        monkeypatch.setattr(encoder_module, "_LOGITS", logits)
        write(model, plan, tmp_path)
        found.append(run(tmp_path, ENCODER, {"x": pixels})["image_embeddings"].ravel())
    assert np.corrcoef(found[0], found[1])[0, 1] > 0.999


def test_codes_of_four_bits_take_half_a_byte(sam: Sam, ranges: Ranges, tmp_path: Path) -> None:
    sizes = {}
    for bits in (2, 4, 8):
        folder = tmp_path / str(bits)
        folder.mkdir()
        plan = BitPlan.uniform(sam.costs().units, UnitBits(bits, bits))
        write(nearest(sam, plan, ranges), plan, folder)
        model = onnx.load(str(folder / f"{ENCODER}.onnx"))
        sizes[bits] = sum(len(c.raw_data) for c in model.graph.initializer if "vision_encoder" in c.name)
        kinds = {c.data_type for c in model.graph.initializer if "layers.0.mlp.lin1" in c.name}
        assert kinds == {onnx.TensorProto.INT8 if bits == 8 else onnx.TensorProto.UINT4}
    weights = sum(u.parameters for u in sam.costs().units if u.part == "encoder")
    assert sizes[8] - sizes[4] == weights / 2
    assert sizes[4] == sizes[2]


@pytest.mark.parametrize("name", ["ptq4sam-l", "ahcptq"])
def test_other_quantizers_are_written_and_named(sam: Sam, four: list[Sample], tmp_path: Path, name: str) -> None:
    plan = BitPlan.uniform(sam.costs().units, UnitBits(4, 4))
    model = quantize(
        sam,
        plan,
        four,
        recipe=RECIPES[name],
        cache=Cache(tmp_path / "cache"),
        progress=Silent(),
        options=ReconstructionOptions(iterations=2),
    ).sam
    folder = tmp_path / "out"
    folder.mkdir()
    exported = write(model, plan, folder)
    kinds = {why.split()[1] for why in exported.float_units.values()}
    assert kinds >= ({"log"} if name == "ptq4sam-l" else {"hybrid", "grouped"})
    pixels = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = model.model.vision_encoder(pixels).last_hidden_state.numpy()
    found = run(folder, ENCODER, {"x": pixels.numpy()})["image_embeddings"]
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def test_the_signature_is_metas(sam: Sam, tmp_path: Path) -> None:
    write(sam, sam.costs().float_plan, tmp_path)
    model = onnx.load(str(tmp_path / f"{DECODER}.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == [
        "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size",
    ]  # fmt: skip
    assert [o.name for o in model.graph.output] == ["masks", "iou_predictions", "low_res_masks"]
    assert [i.name for i in onnx.load(str(tmp_path / f"{ENCODER}.onnx")).graph.input] == ["x"]


def decoder_inputs(points: int, *, has_mask: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image_embeddings": rng.standard_normal((1, 16, 5, 5)).astype(np.float32),
        "point_coords": rng.uniform(0, 79, (1, points, 2)).astype(np.float32),
        "point_labels": np.ones((1, points), np.float32),
        "mask_input": rng.standard_normal((1, 1, 20, 20)).astype(np.float32),
        "has_mask_input": np.array([has_mask], np.float32),
        "orig_im_size": np.array([40, 64], np.float32),
    }


def test_clients_that_send_minus_one_for_no_mask(sam: Sam, tmp_path: Path) -> None:
    write(sam, sam.costs().float_plan, tmp_path)
    none, minus, given = (run(tmp_path, DECODER, decoder_inputs(2, has_mask=h))["low_res_masks"] for h in (0, -1, 1))
    assert np.array_equal(none, minus)
    assert not np.array_equal(none, given)


@pytest.mark.parametrize("points", [1, 2, 3, 7])
def test_a_single_mask_is_chosen_as_metas_decoder_chooses(sam: Sam, tmp_path: Path, points: int) -> None:
    for name, single in (("four", False), ("one", True)):
        (tmp_path / name).mkdir()
        write(sam, sam.costs().float_plan, tmp_path / name, single=single)
    four, one = (run(tmp_path / name, DECODER, decoder_inputs(points)) for name in ("four", "one"))
    assert four["masks"].shape == (1, 4, 40, 64)
    assert one["masks"].shape == (1, 1, 40, 64)
    best = 0 if points >= 3 else 1 + int(four["iou_predictions"][0, 1:].argmax())
    np.testing.assert_array_equal(one["low_res_masks"][0, 0], four["low_res_masks"][0, best])
    assert one["iou_predictions"][0, 0] == four["iou_predictions"][0, best]


def test_an_encoder_that_prepares_images_itself(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    write(sam, sam.costs().float_plan, tmp_path, raw_image=True)
    mine = ExportedPredictor(tmp_path, backend="onnx")
    for sample in samples:
        assert compare(mine, SamPredictor(sam), sample, BOXES) < 1e-4


def test_the_files_say_what_they_are(sam: Sam, ranges: Ranges, tmp_path: Path) -> None:
    plan = mixture(sam, seed=2)
    model = nearest(sam, plan, ranges)
    write(model, plan, tmp_path)
    for name in (ENCODER, DECODER):
        stored = {p.key: p.value for p in onnx.load(str(tmp_path / f"{name}.onnx")).metadata_props}
        values = json.loads(stored[METADATA])
        assert values["recipe"] == "minmax"
        assert values["units"].keys() == {n for n, bits in plan.bits.items() if not bits.is_float}
        first = next(iter(values["units"]))
        assert values["units"][first]["weight"] == plan.bits[first].weight
