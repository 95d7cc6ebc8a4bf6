"""SAM-HQ's decoder as its authors compute it, and the light SAM-HQ: MobileSAM's encoder before that decoder.

Tests of every family do the rest.
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForMaskGeneration, AutoProcessor, SamHQConfig, SamHQModel

from mixqsam.errors import ModelError
from mixqsam.families import FAMILIES, plain_vit, two_way
from mixqsam.families.compatibility import random_model
from mixqsam.families.meta_layout import TWO_WAY_EPS
from mixqsam.families.sam_hq_light_config import SamHqLightConfig
from mixqsam.families.sam_hq_light_model import SamHqLightModel
from mixqsam.sam.load import load_sam
from tests.families.released import to_hq, to_released

pytestmark = pytest.mark.versions
LIGHT = FAMILIES["sam_hq_light"]
BOXES = torch.tensor([[[5.0, 5, 40, 40], [1, 2, 30, 40]]])
LAYER = "image_encoder.layers.1.blocks.0"


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.no_grad():
        made = random_model(LIGHT)
    made.tie_weights()
    return made.requires_grad_(False)


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(3))


def use_attended(decoder: nn.Module) -> None:
    """Have transformers' own forward make masks of the image's tokens that come out of its two-way transformer."""
    seen: list[Tensor] = []

    def put(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (maps,) = given
        return (torch.stack([one[0].T.reshape(maps.shape[1:]) for one in seen.pop()]),)

    decoder.get_submodule("transformer").register_forward_hook(lambda module, given, output: seen.append(output[1]))
    decoder.get_submodule("upscale_conv1").register_forward_pre_hook(put)


@pytest.mark.parametrize("prompted_by", ["boxes", "points", "mask"])
def test_masks_are_those_of_the_authors_decoder(prompted_by: str) -> None:
    hq, config = FAMILIES["sam_hq"], FAMILIES["sam_hq"].sample
    assert config is not None
    torch.manual_seed(0)
    plain = SamHQModel(config()).eval().requires_grad_(False)
    for parameter in plain.parameters():
        parameter.normal_(std=0.5 if parameter.ndim < 2 else 1.2 / parameter[0].numel() ** 0.5)
    mended = deepcopy(plain)
    hq.mend(mended)
    transposed = deepcopy(plain)
    use_attended(plain.mask_decoder)
    given = {
        "boxes": {"input_boxes": BOXES.expand(2, -1, -1)},
        "points": {"input_points": torch.tensor([[[[9.0, 8]], [[30, 20]]]] * 2)},
        "mask": {"input_masks": torch.randn(2, 1, 12, 12)},
    }[prompted_by]
    given["pixel_values"] = torch.randn(2, 3, 48, 48)
    for more in ({"multimask_output": False}, {"multimask_output": True}, {"hq_token_only": True}):
        expected, found = plain(**given, **more), mended(**given, **more)
        assert found.pred_masks.shape == expected.pred_masks.shape
        torch.testing.assert_close(found.pred_masks, expected.pred_masks, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.iou_scores, expected.iou_scores, rtol=1e-4, atol=1e-4)
    # Without the hooks, transformers' masks are others: should that end, there is nothing to mend any more.
    assert not torch.allclose(transposed(**given, **more).pred_masks, expected.pred_masks, atol=0.1)


def test_its_encoder_is_mobile_sams_and_its_decoder_is_sam_hqs(model: Any, pixels: Tensor) -> None:
    mobile = FAMILIES["mobile_sam"]
    assert mobile.sample is not None
    encoder = mobile.model(mobile.sample()).eval().vision_encoder
    encoder.load_state_dict(model.vision_encoder.state_dict())
    parts = two_way.sample_decoder(image_size=48)
    parts["mask_decoder_config"]["vit_dim"] = 12
    # A whole SAM-HQ of transformers, whose own encoder never runs.
    full = SamHQModel(SamHQConfig(vision_config=plain_vit.sample_vision(), **parts)).eval()
    for name in ("mask_decoder", "prompt_encoder", "shared_image_embedding"):
        full.get_submodule(name).load_state_dict(model.get_submodule(name).state_dict())
    use_attended(full.mask_decoder)
    early: list[Tensor] = []
    encoder.layers[1].register_forward_hook(lambda module, given, output: early.append(output))
    boxes = BOXES.expand(2, -1, -1)
    with torch.no_grad():
        embedding = encoder(pixels).last_hidden_state
        assert torch.equal(model.vision_encoder(pixels).last_hidden_state, embedding)
        for multimask in (False, True):
            expected = full(
                image_embeddings=embedding,
                intermediate_embeddings=[early[0].permute(0, 2, 3, 1)],
                input_boxes=boxes,
                multimask_output=multimask,
            )
            found = model(pixel_values=pixels, input_boxes=boxes, multimask_output=multimask)
            torch.testing.assert_close(found.pred_masks, expected.pred_masks, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found.iou_scores, expected.iou_scores, rtol=1e-5, atol=1e-5)


def test_the_early_map_changes_the_masks(model: Any, pixels: Tensor) -> None:
    with torch.no_grad():
        maps = LIGHT.encode(model, pixels)
        prompts = {"sparse": torch.zeros(1, 1, 2, 16), "dense": torch.zeros(1, 16, 3, 3)}
        first, _ = LIGHT.decode(model, maps, prompts, multimask=False)
        other, _ = LIGHT.decode(model, {**maps, "early": -maps["early"]}, prompts, multimask=False)
    assert maps["early"].shape == (2, 12, 3, 3)
    assert not torch.allclose(first, other, atol=0.1)


def test_the_released_sizes_run_on_the_meta_device() -> None:
    with torch.device("meta"):
        found = SamHqLightModel(SamHqLightConfig())
        output = found(pixel_values=torch.zeros(1, 3, 1024, 1024), input_boxes=torch.zeros(1, 2, 4))
    assert found.mask_decoder.compress_vit_conv1.weight.shape == (160, 256, 2, 2)
    assert output.pred_masks.shape == (1, 2, 3, 256, 256)


# --- checkpoints


@pytest.fixture(scope="module")
def released() -> Any:
    """With the settings that tensors do not tell, as released models have them."""
    assert LIGHT.sample is not None
    config = LIGHT.sample()
    config.mask_decoder_config.num_attention_heads = 8
    config.mask_decoder_config.layer_norm_eps = TWO_WAY_EPS
    torch.manual_seed(0)
    return LIGHT.model(config).eval().requires_grad_(False)


def test_the_released_layout_gives_the_model(released: Any, tmp_path: Path) -> None:
    state = to_hq(to_released(released))
    assert {"mask_decoder.hf_mlp.layers.1.weight", "mask_decoder.compress_vit_feat.3.bias"} <= state.keys()
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "sam_hq_vit_tiny.pth")
    found = load_sam(tmp_path / "sam_hq_vit_tiny.pth")
    assert found.family is LIGHT
    # Released models see 1024 pixels, whatever their other sizes.
    assert found.image_size == 1024
    values, expected = found.config.to_dict(), released.config.to_dict()
    assert values["mask_decoder_config"] == expected["mask_decoder_config"]
    assert values["vision_config"]["embed_dims"] == expected["vision_config"]["embed_dims"]
    tensors = found.model.state_dict()
    assert tensors.keys() == released.state_dict().keys()
    for name, tensor in released.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def having(name: str, shape: tuple[int, ...]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: state | {name: torch.ones(shape)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("mask_decoder.hf_mlp.layers.2.bias"), "1 tensors are missing.*mask_decoder.hq_mask_mlp.proj_out.bias"),
        (
            without("mask_decoder.compress_vit_feat.0.weight"),
            "the tensor 'mask_decoder.compress_vit_conv1.weight' is missing",
        ),
        (without(f"{LAYER}.local_conv.bn.bias"), "layers.1.blocks.0.local_conv.bn.bias' is missing"),
        (having("image_encoder.adapter.weight", (1,)), "another variant of light SAM-HQ: 1 foreign tensors .*adapter"),
        (having("mask_decoder.compress_vit_feat.0.weight", (9, 16, 2, 2)), "stage 1 gives 12 channels, but .* is 9"),
    ],
)
def test_a_wrong_checkpoint_says_what_is_wrong(
    released: Any, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    path = tmp_path / "sam_hq_vit_tiny.pth"
    torch.save(change(to_hq(to_released(released))), path)
    with pytest.raises(ModelError, match=message) as caught:
        load_sam(path)
    assert str(path) in str(caught.value)


def test_more_stages_than_the_decoder_can_add_are_refused() -> None:
    sizes = {"embed_dims": [4, 8, 12, 12, 12], "depths": [1] * 5, "num_heads": [2] * 4, "window_sizes": [2] * 4}
    with pytest.raises(ValueError, match="embed_dims has 5 stages; a light SAM-HQ has at most 4"):
        SamHqLightConfig(vision_config=sizes | {"image_size": 1024}, prompt_encoder_config={"patch_size": 32})


def test_auto_classes_know_it_and_its_processor(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    two_way.default_processor(model.config).save_pretrained(tmp_path)
    found, info = AutoModelForMaskGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert type(found) is SamHqLightModel
    assert not any(info.values())
    batch = AutoProcessor.from_pretrained(tmp_path)(images=Image.new("RGB", (40, 20)), return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 48, 48)
