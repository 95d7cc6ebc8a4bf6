"""MobileSAM in ONNX Runtime and OpenVINO: random ones of tiny sizes, whose windows do not divide their maps."""

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mixqsam.artifact.manifest import Manifest
from mixqsam.calibrate import Ranges, calibrate
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import ONNX, OPENVINO, Backend
from mixqsam.deployed.names import DECODER, ENCODER
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.families import prepare
from mixqsam.families.mobile_sam import make_processor
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.channelwise import ChannelQuantizer
from mixqsam.numeric.modules import QuantizedConv2d
from mixqsam.numeric.quantizers import ActivationQuantizer, Quantizer
from mixqsam.numeric.weights import quantize_weight, weight_grid
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts
from mixqsam.runtime.build import integer_model
from mixqsam.sam.forward import make_frame
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor
from tests.families.released import random_mobile_sam, released_checkpoint, tiny_config
from tests.oracles import mixture, nearest

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
openvino = pytest.importorskip("openvino", reason="needs the extra openvino")

from mixqsam.exporting.depthwise import write_depthwise  # noqa: E402
from mixqsam.exporting.files import Exported, ExportOptions, export  # noqa: E402
from mixqsam.exporting.graph import Graph, tensor  # noqa: E402
from mixqsam.exporting.layers import Layers  # noqa: E402
from tests.exporting.test_onnx import BOTH, BOXES, POINTS, compare, operators  # noqa: E402

BACKENDS = pytest.mark.parametrize("backend", [ONNX, OPENVINO], ids=["onnx", "openvino"])


@pytest.fixture(scope="module")
def mobile() -> Sam:
    model = random_mobile_sam(tiny_config())
    return Sam(prepare(model).eval().requires_grad_(False), make_processor(model.config), "tiny MobileSAM")


@pytest.fixture(scope="module")
def mobile_ranges(mobile: Sam, samples: list[Sample]) -> Ranges:
    return calibrate(mobile, samples, observer="minmax", progress=Silent())


def write(sam: Sam, plan: BitPlan, folder: Path, backend: Backend, **options: Any) -> Exported:
    manifest = Manifest.of(sam, plan, recipe="minmax", prompts_per_image=1)
    return export(sam, manifest, folder, backend=backend, options=ExportOptions(**options))


def uniform(sam: Sam, bits: int) -> BitPlan:
    return BitPlan.uniform(sam.costs().units, UnitBits(bits, bits))


def load(folder: Path, backend: Backend) -> ExportedPredictor:
    return ExportedPredictor(folder, backend=backend.name, precision="f32")


def correlation(sam: Sam, folder: Path, backend: Backend) -> float:
    """Of the embeddings of one frame."""
    pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = sam.model.vision_encoder(pixels).last_hidden_state.numpy()
    session = backend.load(folder, ENCODER, threads=1, precision="f32")
    found = session.run({"x": pixels.numpy()})["image_embeddings"]
    assert found.shape == expected.shape
    return float(np.corrcoef(found.ravel(), expected.ravel())[0, 1])


@BACKENDS
def test_a_float_plan_gives_the_float_model(
    mobile: Sam, samples: list[Sample], tmp_path: Path, backend: Backend
) -> None:
    write(mobile, mobile.costs().float_plan, tmp_path, backend)
    mine = load(tmp_path, backend)
    for sample in samples:
        for prompts in (BOXES, POINTS, BOTH):
            for multimask in (False, True):
                assert compare(mine, SamPredictor(mobile), sample, prompts, multimask=multimask) < 1e-3


@BACKENDS
def test_an_encoder_that_prepares_images_itself(
    mobile: Sam, samples: list[Sample], tmp_path: Path, backend: Backend
) -> None:
    write(mobile, mobile.costs().float_plan, tmp_path, backend, raw_image=True)
    assert compare(load(tmp_path, backend), SamPredictor(mobile), samples[0], BOXES) < 1e-3


@BACKENDS
def test_a_mask_to_start_from(mobile: Sam, samples: list[Sample], tmp_path: Path, backend: Backend) -> None:
    write(mobile, mobile.costs().float_plan, tmp_path, backend)
    theirs = SamPredictor(mobile)
    theirs.set_image(samples[0].open())
    again = Prompts(boxes=BOXES.boxes, masks=theirs.segment(BOXES).logits)
    assert compare(load(tmp_path, backend), theirs, samples[0], again) < 1e-3


@BACKENDS
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_encoder_gives_what_ours_gives(
    mobile: Sam, mobile_ranges: Ranges, tmp_path: Path, backend: Backend, bits: int
) -> None:
    model = nearest(mobile, uniform(mobile, bits), mobile_ranges)
    write(integer_model(model), uniform(mobile, bits), tmp_path, backend)
    # At 4 bits a last digit of a float is a whole step soon.
    assert correlation(model, tmp_path, backend) > {4: 0.98, 8: 0.9999}[bits]
    assert correlation(mobile, tmp_path, backend) > {4: 0.95, 8: 0.998}[bits]


@BACKENDS
@pytest.mark.parametrize("seed", [0, 1])
def test_a_mixture_with_float_units(
    mobile: Sam, mobile_ranges: Ranges, tmp_path: Path, backend: Backend, seed: int
) -> None:
    plan = mixture(mobile, seed=seed)
    assert any(bits.is_float for bits in plan.bits.values())
    model = nearest(mobile, plan, mobile_ranges)
    write(model, plan, tmp_path, backend)
    assert correlation(model, tmp_path, backend) > 0.95


@pytest.mark.parametrize("bits", [4, 8])
def test_onnx_runtime_computes_in_whole_numbers(mobile: Sam, mobile_ranges: Ranges, tmp_path: Path, bits: int) -> None:
    plan = uniform(mobile, bits)
    exported = write(nearest(mobile, plan, mobile_ranges), plan, tmp_path, ONNX)
    units = [unit for unit in mobile.costs().units if unit.part == "encoder"]
    depthwise = [unit.name for unit in units if unit.role == "depthwise"]
    # Their output has no grid.
    assert exported.float_units.keys() == set(depthwise)
    found = operators(tmp_path / f"{ENCODER}.onnx")
    # q, k and v are three products of one unit; all others except depthwise convolutions are one.
    products = sum(3 if unit.role == "query-key-value" else 1 for unit in units if unit.role != "depthwise")
    assert found["MatMulIntegerToFloat"] + found["QLinearMatMul"] == products, found
    assert not found["QLinearConv"], found
    # The patch embedding is of no unit.
    assert found["Conv"] + found["FusedConv"] == 2 + len(depthwise), found
    assert not found["Gemm"] + found["MatMul"] + found["FusedMatMul"], found


@pytest.mark.parametrize(("bits", "signed"), [(7, True), (8, False)])
def test_keys_and_values_are_signed_where_pairs_of_products_fit(
    mobile: Sam, mobile_ranges: Ranges, tmp_path: Path, bits: int, signed: bool
) -> None:
    """Processors without VNNI add two products in 16 bits."""
    plan = uniform(mobile, bits)
    write(nearest(mobile, plan, mobile_ranges), plan, tmp_path, ONNX)
    graph = onnx.load(str(tmp_path / f"{ENCODER}.onnx")).graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    found = [kinds[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    attentions = sum(unit.role == "scores" and unit.part == "encoder" for unit in mobile.costs().units)
    assert found.count(onnx.TensorProto.INT8) == (2 * attentions if signed else 0)


def test_maps_are_not_turned_needlessly(mobile: Sam, mobile_ranges: Ranges, tmp_path: Path) -> None:
    plan = uniform(mobile, 8)
    write(nearest(mobile, plan, mobile_ranges), plan, tmp_path, ONNX)
    found = operators(tmp_path / f"{ENCODER}.onnx")
    attentions = sum(unit.role == "scores" and unit.part == "encoder" for unit in mobile.costs().units)
    inverted = sum(unit.role == "depthwise" for unit in mobile.costs().units) - attentions
    # q, k, v and what is mixed go to windows and back; a depthwise convolution turns its input and its output; so do
    # the patch embedding and the embedding once.
    assert found["Transpose"] <= 6 * attentions + 2 * inverted + 2, found


_WHOLE = {"i8", "u8"}


def precisions(path: Path) -> Iterator[tuple[str, str]]:
    """Type of layer and of its arithmetic, of what OpenVINO makes of a file."""
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        yield info["layerType"].astype(str), info["runtimePrecision"].astype(str)


@pytest.mark.parametrize("bits", [4, 8])
def test_openvino_computes_in_whole_numbers(mobile: Sam, mobile_ranges: Ranges, tmp_path: Path, bits: int) -> None:
    plan = uniform(mobile, bits)
    exported = write(nearest(mobile, plan, mobile_ranges), plan, tmp_path, OPENVINO)
    assert not exported.float_units
    found = collections.Counter(
        layer for layer, type_ in precisions(OPENVINO.file(tmp_path, ENCODER)) if type_ in _WHOLE
    )
    units = [unit for unit in mobile.costs().units if unit.part == "encoder"]
    assert found["Convolution"] + found["GroupConvolution"] == sum(unit.kind == "conv" for unit in units), found
    # q, k and v are three products of one unit.
    linears = sum(3 if unit.role == "query-key-value" else 1 for unit in units if unit.kind == "linear")
    assert found["FullyConnected"] == linears, found


def test_the_decoder_is_the_one_of_sam(mobile: Sam, tmp_path: Path) -> None:
    write(mobile, mobile.costs().float_plan, tmp_path, ONNX)
    model = onnx.load(str(tmp_path / f"{DECODER}.onnx"))
    assert [i.name for i in model.graph.input] == [
        "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size",
    ]  # fmt: skip
    shape = [
        d.dim_value for d in onnx.load(str(tmp_path / f"{ENCODER}.onnx")).graph.input[0].type.tensor_type.shape.dim
    ]
    assert shape == [1, 3, 96, 96]


def depthwise(quantizer: ActivationQuantizer, *, stride: int, bits: int) -> QuantizedConv2d:
    source = torch.nn.Conv2d(6, 6, 3, stride=stride, padding=1, groups=6)
    grid = weight_grid(source.weight, bits=bits, observer="minmax", name="w")
    return QuantizedConv2d(quantize_weight(source.weight, grid), source.bias, quantizer, source=source)


def run_depthwise(layer: QuantizedConv2d, values: torch.Tensor, *, last: bool) -> torch.Tensor:
    graph = Graph()
    shape = [1, 9, 11, 6] if last else [1, 6, 9, 11]
    found = write_depthwise(Layers(graph, {}), "x", layer, unit="u", channels_last=last)
    graph.add("Identity", found, outputs=["y"])
    outputs = [tensor("y", 1, "a", "b", "c")]
    model = graph.model("m", [tensor("x", *shape)], outputs, metadata={})
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = values.permute(0, 2, 3, 1) if last else values
    made = torch.from_numpy(session.run(None, {"x": inputs.contiguous().numpy()})[0])
    return made.permute(0, 3, 1, 2) if last else made


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["tensor", "channels", "one zero"])
def test_depthwise_convolutions_of_any_grid(bits: int, stride: int, last: bool, kind: str) -> None:
    """Channels of very different ranges and zero points: also the border has to be zero in each of them."""
    torch.manual_seed(0)
    spread = torch.tensor([0.1, 1.0, 30.0, 5.0, 0.5, 2.0])[:, None, None]
    values = (torch.randn(1, 6, 9, 11) + torch.tensor([0.0, 1, -1, 2, 4, -3])[:, None, None]) * spread
    low, high = values.amin((0, 2, 3)), values.amax((0, 2, 3))
    quantizer: ActivationQuantizer = ChannelQuantizer.from_range(low, high, bits=bits)
    if kind == "one zero":
        quantizer = ChannelQuantizer.from_range(torch.zeros(6), high.abs(), bits=bits)
    elif kind == "tensor":
        quantizer = Quantizer(AffineGrid.from_range(low.amin(), high.amax(), bits=bits))
    layer = depthwise(quantizer, stride=stride, bits=bits)
    expected = layer(values)
    found = run_depthwise(layer, values, last=last)
    # A value in the middle between two steps may go either way.
    assert ((found - expected).abs() > 1e-4 * expected.abs().amax()).float().mean() < 0.01


@pytest.mark.slow
@BACKENDS
def test_the_released_model_is_as_near_as_rounding_allows(
    released_ranges: tuple[Sam, Ranges, torch.Tensor], tmp_path: Path, backend: Backend
) -> None:
    """Runtimes add in other orders. A last digit decides which way a value is rounded, and that value is a whole step.

    So the measure of what a runtime may differ is how far the same model in PyTorch goes for a change of 1e-7.
    """
    sam, ranges, pixels = released_ranges
    model = nearest(sam, uniform(sam, 8), ranges)
    write(model, uniform(sam, 8), tmp_path, backend)
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, moved = (model.model.vision_encoder(x).last_hidden_state for x in (pixels, pixels + 1e-7 * noise))
    session = backend.load(tmp_path, ENCODER, threads=None, precision="f32")
    found = torch.from_numpy(session.run({"x": pixels.numpy()})["image_embeddings"])
    assert (moved - expected).norm() > 0
    assert (found - expected).norm() < 1.3 * (moved - expected).norm()


@pytest.fixture(scope="module")
def released_ranges(coco: Path) -> tuple[Sam, Ranges, torch.Tensor]:
    """The released model, its ranges on one photograph, and the frame of another."""
    sam = load_sam(str(released_checkpoint()))
    first, second = sorted((coco / "val2017").glob("*.jpg"))[:2]
    boxes = Prompts(boxes=np.array([[20.0, 20.0, 300.0, 300.0]]))
    samples = [Sample(path, *imagesize(path), prompts=boxes) for path in (first, second)]
    ranges = calibrate(sam, samples[:1], observer="minmax", progress=Silent())
    return sam, ranges, make_frame(sam, samples[1].open()).pixels


def imagesize(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size
