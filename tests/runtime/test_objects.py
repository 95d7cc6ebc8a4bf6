"""A quantized model as a Python object: copied, pickled, changed, moved to other types, compiled, fine-tuned."""

import copy
import io
import multiprocessing
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import SamModel

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import load_model, save_model
from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.errors import HonestyError
from mixqsam.families import prepare
from mixqsam.families.mobile_sam import make_processor
from mixqsam.families.tiny_vit import WindowAttention
from mixqsam.files import Cache
from mixqsam.numeric.attention import DecoderAttention, VisionAttention
from mixqsam.numeric.modules import Mlp, StoredLayer
from mixqsam.prediction import Predictor
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.runtime import packed
from mixqsam.runtime.packed import NO_GRADIENTS, PackedLayer
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor
from tests.families.released import random_mobile_sam
from tests.families.released import tiny_config as mobile_config
from tests.oracles import mixture, nearest

pytestmark = pytest.mark.filterwarnings("ignore:Integer kernels:RuntimeWarning")
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 64, 3), dtype=np.uint8)


def saved(sam: Sam, samples: list[Sample], folder: Path, *, recipe: str | None = None) -> Path:
    plan = mixture(sam, seed=1)
    if recipe is None:
        model = nearest(sam, plan, calibrate(sam, samples, observer="omse", progress=Silent()))
    else:
        options = ReconstructionOptions(iterations=3)
        model = quantize(
            sam,
            plan,
            samples,
            recipe=RECIPES[recipe],
            cache=Cache(folder / "cache"),
            progress=Silent(),
            options=options,
        ).sam
    save_model(model, Manifest.of(model, plan, recipe="omse", prompts_per_image=1), folder)
    return folder


@pytest.fixture(scope="module")
def directory(sam: Sam, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(sam, samples, tmp_path_factory.mktemp("quantized"))


@pytest.fixture(scope="module")
def mobile_directory(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = mobile_config()
    sam = Sam(prepare(random_mobile_sam(config)).requires_grad_(False), make_processor(config), "mobile-sam")
    return saved(sam, samples, tmp_path_factory.mktemp("mobile"))


def inputs(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    pixels = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(3))
    return {"pixel_values": pixels.to(dtype), "input_boxes": torch.tensor([[[5.0, 5, 60, 60]]], dtype=dtype)}


@torch.no_grad()
def logits(model: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    found: Tensor = model(**inputs(dtype)).pred_masks
    return found


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))  # noqa: S301


def torch_saved(model: Any) -> Any:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, torch_saved])
@pytest.mark.parametrize("is_used", [False, True])
def test_copies_compute_the_same(directory: Path, copied: Callable[[Any], Any], is_used: bool) -> None:
    model = SamModel.from_pretrained(directory)
    expected = logits(model) if is_used else None
    other = copied(model)
    assert torch.equal(logits(other), logits(model) if expected is None else expected)
    # The copy has tensors of its own.
    layer = next(module for module in other.modules() if isinstance(module, PackedLayer))
    layer.weight_scale.mul_(2)
    assert not torch.equal(logits(other), logits(model))


def exported(directory: Path, folder: Path, backend: str) -> Predictor:
    from mixqsam.deployed.backends import find_backend
    from mixqsam.deployed.predictor import ExportedPredictor
    from mixqsam.exporting.files import ExportOptions, export

    sam, manifest = load_model(directory, integer=True)
    folder.mkdir()
    export(sam, manifest, folder, backend=find_backend(backend), options=ExportOptions())
    return ExportedPredictor(folder, backend=backend)


@pytest.mark.parametrize("kind", ["float", "packed", "simulated", "onnx", "openvino"])
def test_predictors_are_copied_and_pickled_with_their_image(
    model_directory: Path, directory: Path, tmp_path: Path, kind: str
) -> None:
    predictor: Predictor
    if kind in {"onnx", "openvino"}:
        pytest.importorskip("onnx")
        pytest.importorskip({"onnx": "onnxruntime"}.get(kind, kind))
        predictor = exported(directory, tmp_path / kind, kind)
    else:
        sam = load_sam(model_directory) if kind == "float" else load_model(directory, integer=kind == "packed")[0]
        predictor = SamPredictor(sam)
    predictor.set_image(IMAGE)
    expected = predictor.predict(box=[5, 5, 40, 50])
    for other in (copy.deepcopy(predictor), pickled(predictor)):
        for mine, theirs in zip(other.predict(box=[5, 5, 40, 50]), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def _in_worker(model: Any) -> Tensor:
    torch.set_num_threads(1)
    return logits(model)


def test_a_spawned_worker_computes_the_same(directory: Path) -> None:
    model = SamModel.from_pretrained(directory)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert torch.equal(pool.apply(_in_worker, (model,)), logits(model))


# End of a name → other values of the same kind.
OTHER: dict[str, Callable[[Tensor], Tensor]] = {
    ".tau": lambda tensor: 3 - tensor,
    ".log_levels": lambda tensor: tensor + 1,
    ".group": torch.zeros_like,
    ".knee": lambda tensor: tensor * 1.5,
    ".span": lambda tensor: tensor * 1.5,
    "zero": lambda tensor: torch.where(tensor > 1, tensor - 1, tensor + 1),
    "scale": lambda tensor: tensor * 1.75,
    "": lambda tensor: 255 - tensor if tensor.dtype == torch.uint8 else tensor * 1.5 + 0.5,
}


def other_values(name: str, tensor: Tensor) -> Tensor:
    return next(make for end, make in OTHER.items() if name.endswith(end))(tensor)


Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@torch.no_grad()
def calls_of(sam: Sam) -> list[Call]:
    """The quantized modules of a model, with what they were called with."""
    kinds = (StoredLayer, Mlp, VisionAttention, DecoderAttention, WindowAttention)
    found: dict[int, Call] = {}

    def keep(module: nn.Module, values: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.setdefault(id(module), (module, *copy.deepcopy((values, named))))

    hooks = [
        module.register_forward_pre_hook(keep, with_kwargs=True)
        for module in sam.model.modules()
        if isinstance(module, kinds)
    ]
    pixels = torch.randn(1, 3, sam.image_size, sam.image_size, generator=torch.Generator().manual_seed(3))
    sam.model(pixel_values=pixels, input_boxes=torch.tensor([[[5.0, 5, 60, 60]]]))
    for hook in hooks:
        hook.remove()
    return list(found.values())


@torch.no_grad()
def output_of(module: nn.Module, values: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    found = module(*copy.deepcopy(values), **copy.deepcopy(named))
    answer: Tensor = found[0] if isinstance(found, tuple) else found
    return answer


@pytest.mark.parametrize(
    ("kind", "how", "integer"),
    [
        ("sam", "in place", True),
        ("sam", "load_state_dict", True),
        ("sam", "assign", True),
        ("sam", "in place", False),
        ("mobile", "in place", True),
        ("mobile", "in place", False),
        ("ptq4sam-l", "in place", True),
        ("ahcptq", "in place", True),
    ],
)
def test_every_change_of_a_tensor_reaches_the_output(
    directory: Path,
    mobile_directory: Path,
    sam: Sam,
    four: list[Sample],
    tmp_path: Path,
    kind: str,
    how: str,
    integer: bool,
) -> None:
    if kind in RECIPES:
        directory = saved(sam, four, tmp_path, recipe=kind)
    model, _ = load_model(mobile_directory if kind == "mobile" else directory, integer=integer)
    calls, silent, count = calls_of(model), [], 0
    assert len(calls) > 20
    for module, values, named in calls:
        before = output_of(module, values, named)
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            old = tensor.detach().clone()
            change(module, name, other_values(name, old), how)
            after = output_of(module, values, named)
            # A copy has nothing prepared from the tensors before.
            assert torch.equal(after, output_of(copy.deepcopy(module), values, named)), name
            silent += [name] if torch.equal(after, before) else []
            count += 1
            change(module, name, old, how)
            assert torch.equal(output_of(module, values, named), before)
    # Biases of keys cancel in a softmax, and others may round to the same.
    assert len(silent) < 0.2 * count


@torch.no_grad()
def change(model: nn.Module, name: str, value: Tensor, how: str) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if how == "in place" or leaf in module._non_persistent_buffers_set:
        getattr(module, leaf).copy_(value)
    else:
        model.load_state_dict({name: value.clone()}, strict=False, assign=how == "assign")


@pytest.mark.parametrize("place", ["directory", "mobile_directory"])
@pytest.mark.parametrize("integer", [True, False], ids=["packed", "simulated"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-3), (torch.bfloat16, 0.35), (torch.float16, 0.3)])
def test_other_types_of_floats(
    request: pytest.FixtureRequest, place: str, integer: bool, dtype: torch.dtype, most: float
) -> None:
    sam, _ = load_model(request.getfixturevalue(place), integer=integer)
    side = sam.image_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(3))
    box = torch.tensor([[[5.0, 5, 60, 60]]])
    with torch.no_grad():
        expected = sam.model(pixel_values=pixels, input_boxes=box).pred_masks
        kept = {n: t.clone() for n, t in sam.model.named_buffers()}
        found = sam.model.to(dtype)(pixel_values=pixels.to(dtype), input_boxes=box.to(dtype)).pred_masks
    assert found.dtype == dtype
    assert float((found.float() - expected).abs().mean() / expected.abs().mean()) < most
    # Codes and scales are what they were.
    assert all(torch.equal(kept[name], tensor) for name, tensor in sam.model.named_buffers())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(sam.model.float()(pixel_values=pixels, input_boxes=box).pred_masks).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_that_was_moved_to_another_type_is_saved(directory: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model = SamModel.from_pretrained(directory)
    expected = logits(model)
    model.to(dtype).save_pretrained(tmp_path)
    again = logits(SamModel.from_pretrained(tmp_path))
    # Norms and biases were rounded, codes and scales were not.
    assert float((again - expected).abs().mean() / expected.abs().mean()) < (0.35 if dtype == torch.bfloat16 else 0.05)
    for name, tensor in SamModel.from_pretrained(directory).named_buffers():
        assert torch.equal(SamModel.from_pretrained(tmp_path).get_buffer(name), tensor)
        break


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_compiled_model_computes_the_same(directory: Path) -> None:
    model = SamModel.from_pretrained(directory)
    expected = logits(model)
    torch.testing.assert_close(logits(torch.compile(model)), expected, rtol=1e-3, atol=1e-4)


def test_gradients_are_not_lost_without_a_word(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_told", set())
    model = SamModel.from_pretrained(directory).requires_grad_(True)
    with pytest.warns(RuntimeWarning, match="No gradients flow through packed weights"):
        model(**inputs())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        model(**inputs())
    with torch.no_grad():
        model.vision_encoder.patch_embed.projection.weight.add_(0.1)
    with pytest.raises(HonestyError, match=r"changed after the model was quantized. .*train model.dequantize"):
        model.save_pretrained("unused")
    assert "model.dequantize()" in NO_GRADIENTS


def test_fine_tuning_goes_by_the_dequantized_model(directory: Path, samples: list[Sample], tmp_path: Path) -> None:
    model = SamModel.from_pretrained(directory)
    model.dequantize()
    assert not [name for name, module in model.named_modules() if isinstance(module, StoredLayer)]
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        answer = model(**inputs())
        loss = answer.pred_masks.square().mean() + answer.iou_scores.square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]
    lacking = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    # What these inputs do not ask for: other kinds of prompts, and the single mask.
    unasked = ("prompt_encoder.", "mask_decoder.output_hypernetworks_mlps.0.")
    assert all(name.startswith(unasked) for name in lacking), lacking
    model.save_pretrained(tmp_path / "tuned")
    tuned = load_sam(tmp_path / "tuned")
    torch.testing.assert_close(logits(tuned.model), logits(model))
    assert SamModel.from_pretrained(saved(tuned, samples, tmp_path)).is_quantized
