"""Graphs that are traced: any family in ONNX Runtime and OpenVINO, on random models of the smallest sizes."""

import collections
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import load_model, save_model
from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import BACKENDS, ONNX
from mixqsam.deployed.names import DECODER, EMBEDDING, ENCODER, METADATA, PADDING
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.errors import InputError
from mixqsam.families import FAMILIES, prepare
from mixqsam.families.family import Family, Maps, PromptTensors
from mixqsam.files import Cache
from mixqsam.pipeline.export import ExportResult, run_export
from mixqsam.pipeline.options import Session
from mixqsam.plan import FLOAT, BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts
from mixqsam.sam.compact import compacted
from mixqsam.sam.forward import decode, encode, make_frame, prompt_tensors
from mixqsam.sam.load import Sam, default_processor
from mixqsam.sam.predictor import SamPredictor
from tests.exporting.test_onnx import BOTH, BOXES, POINTS, operators
from tests.families.toy import TOY, ToyModel
from tests.oracles import nearest

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("openvino", reason="needs the extra openvino")

from mixqsam.exporting import files  # noqa: E402
from mixqsam.exporting.files import ExportOptions, export  # noqa: E402
from mixqsam.exporting.traced import tracing, writing  # noqa: E402
from mixqsam.exporting.traced.merging import merge  # noqa: E402
from mixqsam.exporting.traced.prompts import measure_padding  # noqa: E402
from mixqsam.exporting.traced.tracing import trace  # noqa: E402

TRACED = [name for name in FAMILIES if name not in files.ENCODERS]


@dataclass(frozen=True)
class Made:
    """A random model of a family, and what was exported of it.

    Attributes:
        sam: quantized.
        folders: backend → where it was exported to.
        exported: backend → what was written.
    """

    sam: Sam
    folders: dict[str, Path]
    exported: dict[str, ExportResult]

    def load(self, backend: str) -> ExportedPredictor:
        return ExportedPredictor(self.folders[backend], backend=backend, precision="f32")


def random_sam(family: Family) -> Sam:
    """The family's smallest model, its mask decoder with one layer, with weights that make every module matter."""
    assert family.sample is not None
    config = family.sample()
    config.mask_decoder_config.num_hidden_layers = 1
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = family.model(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.5 if parameter.ndim < 2 else 1.2 / parameter[0].numel() ** 0.5)
    model.tie_weights()
    return Sam(prepare(model).requires_grad_(False), default_processor(model.config), f"random {family.name}")


def remembered(run: Callable[..., Any]) -> Callable[..., Any]:
    """A trace that is made once for encoder and decoder: both backends start from it."""
    known: dict[type[nn.Module], Any] = {}

    def again(module: nn.Module, *rest: Any, **named: Any) -> Any:
        if type(module) not in known:
            known[type(module)] = run(module, *rest, **named)
        copy = onnx.ModelProto()
        copy.CopyFrom(known[type(module)])
        return copy

    return again


def write(sam: Sam, plan: BitPlan, folder: Path) -> Made:
    """Save, and export to both backends, as a user does."""
    folders, exported = {name: folder / name for name in BACKENDS}, {}
    (folder / "quantized").mkdir()
    save_model(sam, Manifest.of(sam, plan, recipe="minmax", prompts_per_image=1), folder / "quantized")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "trace", remembered(trace))
        for name in BACKENDS:
            session = Session(Cache(folder / "cache"), Silent())
            exported[name] = run_export(folder / "quantized", folders[name], kind=name, session=session)
    return Made(load_model(folder / "quantized", integer=True)[0], folders, exported)


# Its decoder is SAM-HQ's, and tracing that takes longest: its encoder has a test of its own.
@pytest.fixture(scope="module", params=[name for name in TRACED if name != "sam_hq_light"])
def mixed(request: pytest.FixtureRequest, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Made:
    sam = random_sam(FAMILIES[request.param])
    units = sam.costs().units
    plan = BitPlan({unit.name: FLOAT if unit.block == "0" else UnitBits(8, 8) for unit in units})
    ranges = calibrate(sam, samples, observer="minmax", progress=Silent())
    return write(nearest(sam, plan, ranges), plan, tmp_path_factory.mktemp(request.param))


def mask_of(sam: Sam) -> np.ndarray:
    """A mask to start from."""
    with torch.no_grad():
        maps = sam.family.encode(sam.model, torch.zeros(1, 3, sam.image_size, sam.image_size))
    side = 4 * maps["embedding"].shape[-1]
    return np.random.default_rng(0).standard_normal((1, 1, side, side)).astype(np.float32) * 4


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of all masks together; 1 of nothing."""
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 1.0


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_are_those_of_integer_inference(mixed: Made, samples: list[Sample], backend: str) -> None:
    mine, theirs = mixed.load(backend), SamPredictor(mixed.sam)
    mask = mask_of(mixed.sam)
    prompts = [BOXES, POINTS, BOTH, Prompts(masks=mask), replace(BOTH, masks=mask)]
    for sample in samples:
        for predictor in (mine, theirs):
            predictor.set_image(sample.open())
        for prompt in prompts:
            for multimask in (False, True):
                found, expected = (one.segment(prompt, multimask=multimask) for one in (mine, theirs))
                assert found.masks.shape == expected.masks.shape
                assert found.visible == expected.visible
                assert overlap(found.masks, expected.masks) >= 0.98
                assert np.abs(found.logits - expected.logits).max() <= 0.02 * np.abs(expected.logits).max()
                np.testing.assert_allclose(found.scores, expected.scores, atol=0.01)


@pytest.mark.slow
def test_depthwise_convolutions_give_the_same_masks(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    sam = random_sam(FAMILIES["sam_hq_light"])
    plan = BitPlan.uniform(sam.costs().units, UnitBits(8, 8))
    sam = nearest(sam, plan, calibrate(sam, samples, observer="minmax", progress=Silent()))
    manifest = Manifest.of(sam, plan, recipe="minmax", prompts_per_image=1)
    monkeypatch.setattr(writing, "trace", remembered(trace))
    depthwise = {unit.name for unit in sam.costs().units if unit.role == "depthwise"}
    for sliced in (True, False):
        encoder, in_float = files.encoder_model(sam, manifest, ExportOptions(), sliced=sliced)
        assert [value.name for value in encoder.graph.output] == [EMBEDDING, "early"]
        assert depthwise <= in_float.keys() if sliced else not in_float
        session = runtime.InferenceSession(encoder.SerializeToString(), providers=["CPUExecutionProvider"])
        for sample in samples:
            frame = make_frame(sam, sample.open())
            prompts = prompt_tensors(sam, BOXES, frame)
            found = map(torch.from_numpy, session.run(None, {"x": frame.pixels.numpy()}))
            logits, _ = decode(sam, dict(zip(("embedding", "early"), found, strict=True)), prompts)
            expected, _ = decode(sam, encode(sam, frame), prompts)
            assert overlap((logits > 0).numpy(), (expected > 0).numpy()) >= 0.98
            assert (logits - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.slow
def test_onnx_runtime_computes_in_whole_numbers(mixed: Made) -> None:
    in_float = mixed.exported["onnx"].float_units
    units = [unit for unit in mixed.sam.costs().units if unit.block != "0"]
    # A convolution over several places needs a grid of its output.
    assert {unit.kind for unit in units if unit.name in in_float} <= {"conv"}
    for name, part in ((ENCODER, "encoder"), (DECODER, "decoder")):
        path = mixed.folders["onnx"] / f"{name}.onnx"
        constants = " ".join(one.name for one in onnx.load(str(path)).graph.initializer)
        of_part = [unit for unit in units if unit.part == part and unit.name not in in_float]
        # What the decoder does not read is not computed: SAM 3's neck has a map for another model.
        own = [unit for unit in of_part if unit.kind == "product" or unit.name in constants]
        found = operators(path)
        assert found["MatMulIntegerToFloat"] + found["QLinearMatMul"] == len(own), found
        assert len(own) >= len(of_part) - 2


@pytest.mark.slow
def test_openvino_names_no_unit_in_float(mixed: Made) -> None:
    assert not mixed.exported["openvino"].float_units


@pytest.mark.slow
def test_files_say_what_they_are_and_not_where_they_were_made(mixed: Made) -> None:
    for name in (ENCODER, DECODER):
        path = mixed.folders["onnx"] / f"{name}.onnx"
        model = onnx.load(str(path))
        values = json.loads({entry.key: entry.value for entry in model.metadata_props}[METADATA])
        assert values["maps"][0] == EMBEDDING
        assert values["stretches"] == mixed.sam.family.framing.stretches
        assert {node.domain for node in model.graph.node} == {""}
        for place in (str(Path(torch.__file__).parent), str(Path(files.__file__).parent), "stack_trace"):
            assert place.encode() not in path.read_bytes()
    inputs = [value.name for value in onnx.load(str(mixed.folders["onnx"] / f"{DECODER}.onnx")).graph.input]
    prompts = ["point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size"]
    assert inputs == [*values["maps"], *prompts]


class Halves(nn.Module):
    """A module with operations to be traced."""

    def __init__(self, work: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.work = work

    def forward(self, *values: Tensor) -> Tensor:
        return self.work(values[0])


def test_an_operator_without_a_form_in_onnx_is_named() -> None:
    with pytest.raises(InputError, match="cannot be exported: .*bessel_j0"):
        trace(Halves(torch.special.bessel_j0), {"x": torch.zeros(3)}, outputs=["y"])


def test_code_that_fixes_a_size_is_refused() -> None:
    def fixed(values: Tensor) -> Tensor:
        return values[list(range(values.shape[0]))]

    with pytest.raises(InputError, match="fixes the number of prompts"):
        trace(Halves(fixed), {"x": torch.zeros(3, 5)}, outputs=["y"], free={"x": {0: "prompts"}})


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_TRANSLATOR", "no_such_library")
    with pytest.raises(InputError, match=r"needs no_such_library: pip install 'mixqsam\[onnx\]'"):
        trace(Halves(torch.neg), {"x": torch.zeros(3)}, outputs=["y"])


def test_the_older_form_is_refused_for_traced_graphs(tmp_path: Path) -> None:
    sam = random_sam(FAMILIES["sam_hq"])
    manifest = Manifest.of(sam, sam.costs().float_plan, recipe="none", prompts_per_image=1)
    with pytest.raises(InputError, match="'sam_hq' model; --compatible is for models of type 'sam', 'mobile_sam'"):
        export(sam, manifest, tmp_path, backend=ONNX, options=ExportOptions(compatible=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sam", *TRACED])
def test_tokens_for_padding_are_counted(name: str) -> None:
    sam = random_sam(FAMILIES[name])
    side = mask_of(sam).shape[-1]
    found = measure_padding(sam.model, sam.family, side=sam.image_size, mask_side=side)
    assert found == (PADDING if name.startswith("sam_hq") or name == "sam" else {"boxes": 1, "points": 1, "masks": 2})


def test_a_family_that_embeds_prompts_otherwise_is_refused() -> None:
    sam = random_sam(FAMILIES["sam"])

    def swapped(model: Any, prompts: PromptTensors) -> Maps:
        boxes = None if prompts.boxes is None else prompts.boxes[..., [1, 0, 3, 2]]
        found = dict(sam.family.embed(model, replace(prompts, boxes=boxes)))
        return found if prompts.points is None else found | {"sparse": found["sparse"].flip(2)}

    other = replace(sam.family, embed=swapped)
    with pytest.raises(InputError, match="type 'sam' cannot be exported: they embed prompts otherwise"):
        measure_padding(sam.model, other, side=sam.image_size, mask_side=mask_of(sam).shape[-1])


def test_a_family_with_other_prompts_is_refused() -> None:
    with pytest.raises(InputError, match="type 'toy' cannot be exported: they embed prompts otherwise"):
        measure_padding(ToyModel(ToyModel.config_class()), TOY, side=48, mask_side=24)


def test_equal_nodes_become_one() -> None:
    def twice(values: Tensor) -> Tensor:
        return torch.cat([values.cos().exp(), values.cos().exp()])

    traced = trace(Halves(twice), {"x": torch.zeros(3)}, outputs=["y"])
    assert collections.Counter(node.op_type for node in traced.graph.node) == {"Cos": 1, "Exp": 1, "Concat": 1}
    before = traced.SerializeToString()
    merge(traced)
    assert traced.SerializeToString() == before


def test_tensors_of_no_unit_stay_codes(tmp_path: Path) -> None:
    """The file holds bytes where the packed directory holds bytes."""
    family = FAMILIES["sam"]
    assert family.sample is not None
    config = family.sample()
    config.vision_config.hidden_size = 480
    torch.manual_seed(0)
    model = family.model(config).eval()
    sam = compacted(Sam(prepare(model).requires_grad_(False), default_processor(config), "wide"))
    assert "vision_encoder.pos_embed" in sam.rest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "ENCODERS", {})
        manifest = Manifest.of(sam, sam.costs().float_plan, recipe="none", prompts_per_image=1)
        encoder, _ = files.encoder_model(sam, manifest, ExportOptions(), sliced=True)
    kinds = {c.name: c.data_type for c in encoder.graph.initializer}
    codes = [kind for name, kind in kinds.items() if "pos_embed" in name and kind == onnx.TensorProto.UINT8]
    assert len(codes) == 1
    assert kinds.get("model.vision_encoder.pos_embed") is None
    pixels = torch.randn(1, 3, 48, 48)
    session = runtime.InferenceSession(encoder.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = sam.family.encode(sam.model, pixels)["embedding"].numpy()
    np.testing.assert_allclose(session.run(None, {"x": pixels.numpy()})[0], expected, atol=1e-3)
