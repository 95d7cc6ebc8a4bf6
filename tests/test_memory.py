"""What is computed from a file does not depend on where its reader leaves the tensors."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.tiny import make_model, random_model, tiny_config, to_meta
from torch import Tensor, nn
from transformers import SamModel

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import load_model, save_model
from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.families import prepare
from mixqsam.numeric.memory import ALIGNMENT, align_tensors, aligned
from mixqsam.numeric.tensor_file import TensorFile, TensorTable
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor
from tests.oracles import logits_of, mixture, nearest


def displaced(tensor: Tensor, *, by: int) -> Tensor:
    """The same values, `by` bytes behind an aligned address."""
    space = torch.empty(tensor.nbytes + 2 * ALIGNMENT, dtype=torch.uint8)
    start = -space.data_ptr() % ALIGNMENT + by
    moved = space[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    assert moved.data_ptr() % ALIGNMENT == by
    return moved.copy_(tensor)


def offsets(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.data_ptr() % ALIGNMENT for tensor in tensors}


def tensors_of(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def shift_data(path: Path, *, by: int) -> None:
    """Lengthen the header of a safetensors file, so that its tensors start `by` bytes behind a cache line."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    padded = len(header) + (by - 8 - len(header)) % ALIGNMENT
    path.write_bytes(padded.to_bytes(8, "little") + header.ljust(padded) + content[8 + length :])


def masks(model: SamModel) -> Tensor:
    pixels = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: Tensor = model(pixel_values=pixels, input_boxes=torch.tensor([[[3.0, 4, 50, 60]]])).pred_masks
    return found


@pytest.mark.parametrize("by", [4, 8, 24, 48, 56])
def test_a_tensor_elsewhere_is_copied_and_an_aligned_one_is_not(by: int) -> None:
    values = torch.arange(35.0).reshape(5, 7)
    assert aligned(values) is values
    moved = displaced(values, by=by)
    assert offsets([aligned(moved)]) == {0}
    assert torch.equal(aligned(moved), values)
    turned = aligned(values.t())
    assert turned.is_contiguous()
    assert torch.equal(turned, values.t())


def test_shared_tensors_stay_shared() -> None:
    first, second = nn.Linear(3, 5, bias=False), nn.Linear(3, 5, bias=False)
    first.weight = second.weight = nn.Parameter(displaced(torch.ones(5, 3), by=24))
    align_tensors(nn.Sequential(first, second))
    assert first.weight is second.weight
    assert offsets([first.weight]) == {0}


def test_a_table_gives_aligned_tensors_and_keeps_no_second_copy() -> None:
    moved = {"a": displaced(torch.ones(3), by=24), "b": displaced(torch.ones(5), by=48)}
    table = TensorTable(moved, source="memory")
    assert offsets(table.take(name, shape=1, dtype=torch.float32) for name in ("a", "b")) == {0}
    assert not table._tensors


@pytest.fixture(scope="module")
def quantized(sam: Sam, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> tuple[Sam, Path]:
    """A quantized model, and the directory that it was saved to."""
    plan = mixture(sam, seed=0)
    model = nearest(sam, plan, calibrate(sam, samples, observer="omse", progress=Silent()))
    folder = tmp_path_factory.mktemp("quantized")
    save_model(model, Manifest.of(model, plan, recipe="omse", prompts_per_image=1), folder)
    return model, folder


@pytest.mark.parametrize("by", [0, 1, 24, 56])
def test_a_quantized_file_computes_the_same_wherever_its_tensors_lie(
    quantized: tuple[Sam, Path], samples: list[Sample], by: int
) -> None:
    model, folder = quantized
    path = folder / "model.safetensors"
    shift_data(path, by=by)
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert start % ALIGNMENT == by
    assert json.loads(path.read_bytes()[8:start])
    again, _ = load_model(folder)
    assert offsets(tensors_of(again.model)) == {0}
    assert all(torch.equal(logits_of(again, sample), logits_of(model, sample)) for sample in samples)
    through_transformers = SamModel.from_pretrained(folder)
    assert offsets(tensors_of(through_transformers)) == {0}
    assert torch.equal(masks(through_transformers), masks(load_model(folder, integer=True)[0].model))
    with TensorFile(path) as file:
        name = "mask_decoder.iou_token.weight"
        assert offsets([file.take(name, shape=2, dtype=torch.float32)]) == {0}


@pytest.mark.parametrize("by", [0, 1, 24, 56])
def test_a_float_directory_computes_what_the_model_in_memory_computes(tmp_path: Path, by: int) -> None:
    shift_data(make_model(tmp_path) / "model.safetensors", by=by)
    sam = load_sam(tmp_path)
    assert offsets(tensors_of(sam.model)) == {0}
    assert torch.equal(masks(sam.model), masks(prepare(random_model(tiny_config()))))


def test_the_embedded_model_is_aligned() -> None:
    assert offsets(tensors_of(load_sam("sam-tiny").model)) == {0}


def test_a_pth_of_displaced_tensors_computes_what_the_plain_one_computes(tmp_path: Path) -> None:
    config = tiny_config()
    config.mask_decoder_config.num_attention_heads = 8  # what Meta's files imply
    state = to_meta(random_model(config).state_dict())
    torch.save(state, tmp_path / "plain.pth")
    # A saved view keeps its place in its storage.
    torch.save({name: displaced(tensor, by=24) for name, tensor in state.items()}, tmp_path / "displaced.pth")
    views = torch.load(tmp_path / "displaced.pth", weights_only=True)
    assert 0 not in offsets(tensor for tensor in views.values() if tensor.numel())
    sam = load_sam(tmp_path / "displaced.pth")
    assert offsets(tensors_of(sam.model)) == {0}
    assert torch.equal(masks(sam.model), masks(load_sam(tmp_path / "plain.pth").model))


def test_a_cached_embedding_is_aligned(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    first, second = (SamPredictor(sam, embeddings=tmp_path) for _ in range(2))
    image = samples[0].open()
    first.set_image(image)
    second.set_image(image)
    assert second._maps is not None
    assert offsets(second._maps.values()) == {0}
    computed, cached = (predictor.segment(samples[0].prompts).logits for predictor in (first, second))
    assert np.array_equal(computed, cached)
