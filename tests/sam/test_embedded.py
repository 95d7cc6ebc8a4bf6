"""The embedded sam-tiny: its encoder is trained, its masks follow the image, half precision does not move them."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from mixqsam.data.coco import annotated_samples
from mixqsam.data.demo import CALIBRATION, EVALUATION, demo_samples
from mixqsam.data.samples import Sample
from mixqsam.evaluation.record import mask_ious
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor
from tests.families.released import shared_models

Pixels = NDArray[np.uint8]
Masks = NDArray[np.bool_]


@pytest.fixture(scope="module")
def tiny() -> Sam:
    return load_sam("sam-tiny")


@pytest.fixture(scope="module")
def photographs() -> list[Sample]:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    return demo_samples(CALIBRATION + EVALUATION)


def masks(sam: Sam, samples: list[Sample], *, change: Callable[[int, Pixels], Pixels] | None = None) -> list[Masks]:
    """The masks for the boxes of each image; `change` gives other pixels for an image."""
    predictor, found = SamPredictor(sam), []
    for index, sample in enumerate(samples):
        pixels = np.asarray(sample.open().convert("RGB"))
        predictor.set_image(pixels if change is None else change(index, pixels))
        found.append(predictor.segment(sample.prompts).masks[:, 0])
    return found


def agreement(first: list[Masks], second: list[Masks]) -> float:
    return float(np.mean([iou for a, b in zip(first, second, strict=True) for iou in mask_ious(a, b)]))


def grain(index: int, pixels: Pixels) -> Pixels:
    """A change that nobody sees: one step of grey at most."""
    steps = np.random.default_rng(index).integers(-1, 2, pixels.shape)
    changed: Pixels = np.clip(pixels + steps, 0, 255).astype(np.uint8)
    return changed


def test_every_block_of_the_encoder_has_left_its_initial_values(tiny: Sam) -> None:
    for index, layer in enumerate(tiny.model.vision_encoder.layers):
        for name, parameter in layer.named_parameters():
            if name.endswith("bias") or "norm" in name or "rel_pos" in name:
                initial = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                assert float((parameter - initial).abs().max()) > 1e-3, f"layers.{index}.{name}"


def test_every_block_of_the_encoder_moves_the_masks(tiny: Sam, photographs: list[Sample]) -> None:
    plain = masks(tiny, photographs)
    noise = 1 - agreement(plain, masks(tiny, photographs, change=grain))
    for index, layer in enumerate(tiny.model.vision_encoder.layers):
        handle = layer.register_forward_hook(lambda module, given, output: given[0])
        loss = 1 - agreement(plain, masks(tiny, photographs, change=None))
        handle.remove()
        assert loss > 5 * noise, f"layers.{index}: {loss:.4f} is not more than the noise, {noise:.4f}"


def test_masks_follow_the_image_under_the_same_box(tiny: Sam, photographs: list[Sample]) -> None:
    def other(index: int, pixels: Pixels) -> Pixels:
        image = photographs[(index + 1) % len(photographs)].open().convert("RGB")
        return np.asarray(image.resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BILINEAR))

    assert agreement(masks(tiny, photographs), masks(tiny, photographs, change=other)) < 0.8


def test_weights_are_stored_in_half_precision_and_load_as_float32(tiny: Sam) -> None:
    path = resources.files("mixqsam") / "assets/sam-tiny/model.safetensors"
    with safe_open(str(path), "pt") as stored:
        assert {stored.get_slice(name).get_dtype() for name in stored.keys()} == {"F16"}  # noqa: SIM118
    assert {tensor.dtype for tensor in tiny.model.state_dict().values()} == {torch.float32}


def test_half_precision_does_not_move_the_masks(tiny: Sam, coco: Path) -> None:
    source = shared_models() / "sam-tiny"
    if not (source / "model.safetensors").is_file():
        pytest.skip(f"needs the weights in float32 (looked at {source})")
    samples = annotated_samples(coco / "annotations/instances_val2017.json", images=coco / "val2017")[:15]
    full = load_sam(source)
    for name, tensor in full.model.state_dict().items():
        torch.testing.assert_close(tiny.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
    assert agreement(masks(full, samples), masks(tiny, samples)) >= 0.999
