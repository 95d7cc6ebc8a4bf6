"""Units of 16 bits in ONNX Runtime and OpenVINO."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mixqsam.artifact.manifest import Manifest
from mixqsam.calibrate import Ranges, calibrate
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import ONNX, OPENVINO, Backend
from mixqsam.deployed.names import ENCODER, METADATA
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.families import prepare
from mixqsam.families.mobile_sam import make_processor
from mixqsam.numeric.channelwise import ChannelQuantizer
from mixqsam.numeric.half import HalfTensor, Unquantized
from mixqsam.numeric.modules import QuantizedConv2d
from mixqsam.numeric.weights import quantize_weight, weight_grid
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.runtime.build import integer_model
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor
from tests.families.released import random_mobile_sam, tiny_config
from tests.oracles import half_mixture, nearest

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
openvino = pytest.importorskip("openvino", reason="needs the extra openvino")

from mixqsam.exporting import encoder as encoder_module  # noqa: E402
from mixqsam.exporting.depthwise import write_depthwise  # noqa: E402
from mixqsam.exporting.files import Exported, ExportOptions, export  # noqa: E402
from mixqsam.exporting.graph import Graph, tensor  # noqa: E402
from mixqsam.exporting.layers import Layers  # noqa: E402
from tests.exporting.test_onnx import BOTH, BOXES, compare  # noqa: E402

BACKENDS = pytest.mark.parametrize("backend", [ONNX, OPENVINO], ids=["onnx", "openvino"])
MODELS = pytest.mark.parametrize("name", ["sam", "mobile_sam"])


@pytest.fixture(scope="module")
def models(sam: Sam, samples: list[Sample]) -> dict[str, tuple[Sam, Ranges]]:
    model = random_mobile_sam(tiny_config())
    mobile = Sam(prepare(model).eval().requires_grad_(False), make_processor(model.config), "tiny MobileSAM")
    return {
        each.family.name: (each, calibrate(each, samples, observer="minmax", progress=Silent()))
        for each in (sam, mobile)
    }


def write(sam: Sam, plan: BitPlan, folder: Path, backend: Backend) -> Exported:
    manifest = Manifest.of(sam, plan, recipe="minmax", prompts_per_image=1)
    return export(sam, manifest, folder, backend=backend, options=ExportOptions())


def load(folder: Path, backend: Backend) -> ExportedPredictor:
    return ExportedPredictor(folder, backend=backend.name, precision="f32")


@BACKENDS
@MODELS
@pytest.mark.parametrize("bits", [UnitBits(16, 16), UnitBits(8, 16), UnitBits(4, 16), UnitBits(2, 16)], ids=str)
def test_without_quantized_activations_the_graphs_are_the_model(
    models: dict[str, tuple[Sam, Ranges]],
    samples: list[Sample],
    tmp_path: Path,
    name: str,
    backend: Backend,
    bits: UnitBits,
) -> None:
    """Nothing is rounded on the way, so only the last digits of floats differ."""
    sam, ranges = models[name]
    plan = BitPlan.uniform(sam.costs().units, bits)
    model = nearest(sam, plan, ranges)
    exported = write(integer_model(model), plan, tmp_path, backend)
    assert set(exported.float_units.values()) == {"its activations have 16 bits and are not quantized"}
    assert len(exported.float_units) == len(sam.costs().units)
    for sample in samples:
        assert compare(load(tmp_path, backend), SamPredictor(model), sample, BOTH) < 1e-3


@BACKENDS
@MODELS
def test_a_mixed_plan_gives_what_ours_gives(
    models: dict[str, tuple[Sam, Ranges]], samples: list[Sample], tmp_path: Path, name: str, backend: Backend
) -> None:
    """W16A16 and W8A16 units, and W4A4 ones in the decoder's last attention, where few values are rounded."""
    sam, ranges = models[name]
    choices = itertools.cycle([UnitBits(16, 16), UnitBits(8, 16)])
    bits = {unit.name: next(choices) for unit in sam.costs().units}
    bits |= {unit: UnitBits(4, 4) for unit in bits if "final_attn_token_to_image" in unit}
    bits |= {unit: UnitBits(16, 4) for unit in bits if unit.endswith("neck.conv2")}
    assert Counter(map(str, bits.values())).keys() == {"W16A16", "W8A16", "W4A4", "W16A4"}
    plan = BitPlan(bits)
    model = nearest(sam, plan, ranges)
    exported = write(model, plan, tmp_path, backend)
    assert "its weights have 16 bits" in exported.float_units.values()
    for sample in samples:
        assert compare(load(tmp_path, backend), SamPredictor(model), sample, BOXES) < 1e-3


@pytest.mark.parametrize("seed", range(3))
@MODELS
@BACKENDS
def test_any_mixture_can_be_written(
    models: dict[str, tuple[Sam, Ranges]], tmp_path: Path, name: str, backend: Backend, seed: int
) -> None:
    sam, ranges = models[name]
    plan = half_mixture(sam, seed=seed)
    model = nearest(sam, plan, ranges)
    write(model, plan, tmp_path, backend)
    pixels = torch.randn(1, 3, sam.image_size, sam.image_size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = model.model.vision_encoder(pixels).last_hidden_state.numpy()
    session = backend.load(tmp_path, ENCODER, threads=1, precision="f32")
    found = session.run({"x": pixels.numpy()})["image_embeddings"]
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def test_attention_in_slices_takes_operands_without_quantizers(
    models: dict[str, tuple[Sam, Ranges]], samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "_LOGITS", 5 * 25)
    sam, ranges = models["sam"]
    plan = BitPlan.uniform(sam.costs().units, UnitBits(8, 16))
    model = nearest(sam, plan, ranges)
    write(model, plan, tmp_path, ONNX)
    assert compare(load(tmp_path, ONNX), SamPredictor(model), samples[0], BOXES) < 1e-3


def test_half_precision_is_stored_as_two_bytes_and_cast(models: dict[str, tuple[Sam, Ranges]], tmp_path: Path) -> None:
    sam, ranges = models["sam"]
    units = sam.costs().units
    plan = BitPlan.uniform(units, UnitBits(16, 16))
    model = nearest(sam, plan, ranges)
    # A value that float16 does not hold.
    wide = model.model.get_submodule(units[0].name)
    wide._stored = HalfTensor(wide._stored.values.float().mul(1e-7).bfloat16())
    write(model, plan, tmp_path, ONNX)
    file = onnx.load(tmp_path / "sam.encoder.onnx")
    kinds = Counter(initializer.data_type for initializer in file.graph.initializer)
    # The encoder writes q, k and v of a projection as three layers.
    layers = sum(3 if u.role == "query-key-value" else 1 for u in units if u.part == "encoder" and u.kind != "product")
    assert kinds[onnx.TensorProto.FLOAT16] + kinds[onnx.TensorProto.BFLOAT16] == layers
    assert kinds[onnx.TensorProto.BFLOAT16] == (3 if units[0].role == "query-key-value" else 1)
    casts = [node.input[0] for node in file.graph.node if node.op_type == "Cast"]
    halves = {
        i.name for i in file.graph.initializer if i.data_type in {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    }
    assert halves <= set(casts)
    metadata = json.loads(next(entry.value for entry in file.metadata_props if entry.key == METADATA))
    assert metadata["format_version"] == 3
    optimised = tmp_path / "optimised.onnx"
    options = runtime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(optimised), 3
    session = runtime.InferenceSession(str(tmp_path / "sam.encoder.onnx"), options, providers=["CPUExecutionProvider"])
    kept = {i.name for i in onnx.load(optimised).graph.initializer}
    assert not halves & kept
    pixels = torch.randn(1, 3, sam.image_size, sam.image_size, generator=torch.Generator().manual_seed(5))
    assert np.isfinite(session.run(None, {"x": pixels.numpy()})[0]).all()


@BACKENDS
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("weight", "activation"), [(16, 16), (16, 8), (8, 16)])
def test_depthwise_convolutions(
    tmp_path: Path, weight: int, activation: int, kind: torch.dtype, channels_last: bool, backend: Backend
) -> None:
    channels = 6
    source = nn.Conv2d(channels, channels, 3, padding=1, stride=2, groups=channels)
    grid = weight_grid(source.weight, bits=8, observer="minmax", name="u")
    half = HalfTensor(source.weight.detach().to(kind) * (1 if kind == torch.float16 else 2**-20))
    stored = half if weight == 16 else quantize_weight(source.weight, grid)
    values = torch.randn(1, channels, 9, 9, generator=torch.Generator().manual_seed(3))
    high = torch.linspace(1, 3, channels)
    own = Unquantized() if activation == 16 else ChannelQuantizer.from_range(-high, high / 2, bits=8)
    layer = QuantizedConv2d(stored, source.bias, own, source=source)
    expected = layer(values)
    inputs, outputs = values, expected
    if channels_last:
        inputs, outputs = values.permute(0, 2, 3, 1), expected.permute(0, 2, 3, 1)
    graph = Graph()
    found = write_depthwise(Layers(graph, {}), "x", layer, unit="u", channels_last=channels_last)
    graph.add("Identity", found, outputs=["y"])
    model = graph.model("m", [tensor("x", *inputs.shape)], [tensor("y", *outputs.shape)], metadata={})
    path = tmp_path / "m.onnx"
    onnx.save_model(model, path)
    if backend is ONNX:
        result = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
            None, {"x": inputs.numpy()}
        )
    else:
        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        result = compiled([inputs.numpy()])
    assert np.abs(result[0] - outputs.detach().numpy()).max() < 1e-4
