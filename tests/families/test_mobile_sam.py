import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskGeneration, AutoProcessor
from transformers.models.sam.modeling_sam import SamVisionEncoder

from mixqsam.errors import ModelError
from mixqsam.families import FAMILIES, prepare
from mixqsam.families.mobile_sam import load_checkpoint
from mixqsam.families.mobile_sam_checkpoint import fold
from mixqsam.families.mobile_sam_config import MobileSamConfig
from mixqsam.families.mobile_sam_model import MobileSamModel
from mixqsam.families.tiny_vit import WindowAttention, join_windows, split_windows
from mixqsam.numeric.modules import Product
from mixqsam.prompts import Prompts
from mixqsam.sam.forward import make_frame
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor
from tests.families.released import (
    Reference,
    random_mobile_sam,
    reference,
    released_checkpoint,
    tiny_config,
    to_released,
)

State = dict[str, Tensor]


def answers(model: MobileSamModel) -> tuple[Tensor, Tensor]:
    size = model.config.vision_config.image_size
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found = model(pixel_values=pixels, input_boxes=torch.tensor([[[5.0, 5, 60, 60], [1, 2, 30, 40]]]))
    return found.pred_masks, found.iou_scores


def write(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


@pytest.fixture
def model() -> MobileSamModel:
    return random_mobile_sam(tiny_config())


# --- the released model


@pytest.fixture(scope="module")
def released() -> SamPredictor:
    model, processor = load_checkpoint(released_checkpoint())
    return SamPredictor(Sam(prepare(model).requires_grad_(False), processor, "mobile-sam"))


@pytest.fixture(scope="module")
def expected() -> Reference:
    return reference()


def error_of(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("image", [0, 1, 2])
def test_the_released_model_answers_as_its_own_code(
    released: SamPredictor, expected: Reference, coco: Path, image: int
) -> None:
    calls = [call for call in expected.calls if call["call"].startswith(f"{image}/")]
    path = next(coco.glob(f"*2017/{calls[0]['image']}"))
    released.set_image(Image.open(path).convert("RGB"))
    frame = make_frame(released.sam, Image.open(path).convert("RGB"))
    with torch.no_grad():
        embedding = released.sam.model.vision_encoder(frame.pixels).last_hidden_state
    assert error_of(embedding[0, :, ::8, ::8].numpy(), expected.answers[f"{image}/embedding_every_8th"]) < 1e-3
    for call in calls:
        prompts = Prompts(
            boxes=np.array([call["box"]]) if "box" in call else None,
            points=np.array([call["point_coords"]]) if "point_coords" in call else None,
            labels=np.array([call["point_labels"]]) if "point_labels" in call else None,
        )
        found = released.segment(prompts, multimask=call["multimask_output"])
        wanted = {part: expected.answers[f"{call['call']}/{part}"] for part in ("low_res", "scores", "area")}
        assert error_of(found.logits[0, :, ::4, ::4], wanted["low_res"]) < 1e-3
        assert error_of(found.scores[0], wanted["scores"]) < 1e-3
        np.testing.assert_allclose(found.masks[0].sum((-2, -1)), wanted["area"], rtol=1e-3)


def test_the_released_sizes_are_read_from_the_shapes(released: SamPredictor) -> None:
    config = released.sam.config
    assert config.to_diff_dict()["vision_config"] == MobileSamConfig().to_diff_dict()["vision_config"]
    count = sum(p.numel() for p in released.sam.model.vision_encoder.parameters())
    assert 5.7e6 < count < 6.1e6
    assert released.sam.processor.size == {"longest_edge": 1024}


# --- the modules


def test_folding_equals_batch_normalisation() -> None:
    torch.manual_seed(1)
    for groups, inputs in ((1, 6), (8, 1)):
        convolution = nn.Conv2d(inputs * groups, 8, 3, padding=1, groups=groups, bias=False)
        norm = nn.BatchNorm2d(8).eval()
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        for tensor in (norm.weight.data, norm.bias.data, mean):
            tensor.normal_()
        variance.uniform_(0.01, 4)
        weight, bias = fold(convolution.weight.data, [norm.weight, norm.bias, mean, variance])
        values = torch.randn(2, inputs * groups, 9, 9)
        with torch.no_grad():
            wanted = norm(convolution(values))
            found = nn.functional.conv2d(values, weight, bias, padding=1, groups=groups)
        assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_window_attention_is_a_sum_over_keys_with_a_bias_for_each_offset() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(6, heads=2, window=3)
    nn.init.normal_(attention.attention_biases)
    tokens = torch.randn(1, 9, 6)
    with torch.no_grad():
        found = attention(tokens)[0]
        rows = attention.qkv(attention.norm(tokens))[0]
        mixed = torch.zeros(9, 6)
        for head in range(2):
            query, key, value = rows[:, 9 * head : 9 * head + 9].split(3, dim=1)
            for i in range(9):
                logits = torch.stack(
                    [
                        query[i] @ key[j] / 3**0.5
                        + attention.attention_biases[head, abs(i // 3 - j // 3) * 3 + abs(i % 3 - j % 3)]
                        for j in range(9)
                    ]
                )
                mixed[i, 3 * head : 3 * head + 3] = torch.softmax(logits, 0) @ value
        wanted = attention.proj(mixed)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(6, 9), (7, 8), (2, 3)])
def test_windows_are_padded_below_and_at_the_right_and_joined_again(size: tuple[int, int]) -> None:
    tokens = torch.randn(2, *size, 4)
    windows = split_windows(tokens, 3)
    assert windows.shape == (2 * -(-size[0] // 3) * -(-size[1] // 3), 9, 4)
    corner = windows[0].reshape(3, 3, 4)
    assert torch.equal(corner[: size[0], : size[1]], tokens[0, :3, :3])
    assert not corner[size[0] :].any()
    assert torch.equal(join_windows(windows, 3, tuple(tokens.shape)), tokens)


def test_products_are_modules_with_places_for_quantizers(model: MobileSamModel) -> None:
    products = [n for n, m in model.vision_encoder.named_modules() if isinstance(m, Product)]
    assert products == [
        f"layers.{i}.blocks.{j}.attn.{p}" for i, j in ((1, 0), (1, 1), (2, 0), (3, 0)) for p in ("qk", "av")
    ]
    seen: list[str] = []
    for name in products:
        place = model.vision_encoder.get_submodule(f"{name}.left")
        place.register_forward_hook(lambda m, i, o, name=name: seen.append(name))
    answers(model)
    assert seen == products


def test_no_vit_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SamVisionEncoder, "__init__", lambda *_: pytest.fail("a ViT was made"))
    model = MobileSamModel(tiny_config())
    assert not any(isinstance(module, SamVisionEncoder) for module in model.modules())


def test_it_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = MobileSamModel(MobileSamConfig())
        found = model(pixel_values=torch.zeros(1, 3, 1024, 1024), input_boxes=torch.zeros(1, 2, 4))
    assert found.pred_masks.shape == (1, 2, 3, 256, 256)
    assert found.pred_masks.device.type == "meta"


def test_an_image_of_another_size_is_refused(model: MobileSamModel) -> None:
    with pytest.raises(ValueError, match="100×96 pixels; expected 96×96"):
        model.vision_encoder(torch.zeros(1, 3, 100, 96))


# --- checkpoints


def test_a_checkpoint_in_the_released_layout_gives_the_model(model: MobileSamModel, tmp_path: Path) -> None:
    path = write(tmp_path / "mobile_sam.pt", to_released(model))
    found, processor = load_checkpoint(path, image_size=96)
    assert found.config.to_dict()["vision_config"] == model.config.to_dict()["vision_config"]
    assert processor.pad_size["height"] == 96
    assert not found.training
    for ours, wanted in zip(answers(found), answers(model), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("entry", [None, "model", "state_dict", "model_state"])
@pytest.mark.parametrize("prefix", ["", "module.", "sam.", "module.sam."])
def test_prefixes_and_entries_of_fine_tuners(
    model: MobileSamModel, tmp_path: Path, entry: str | None, prefix: str
) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in to_released(model).items()}
    path = write(tmp_path / "best.pth", {entry: state, "epoch": 3, "optimizer": {"lr": 1.0}} if entry else state)
    found, _ = load_checkpoint(path, image_size=96)
    assert float((answers(found)[0] - answers(model)[0]).abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ({"embed_dims": [16, 20, 24, 30], "depths": [2, 1, 3, 1], "expansion": 3.0, "mlp_ratio": 2.0}, 1024),
        ({"window_sizes": [8, 8, 8], "local_kernel": 5, "num_heads": [1, 1, 1]}, 1024),
        ({"patch_kernel": 1, "image_size": 64}, 256),
    ],
)
def test_other_sizes_are_read_from_the_shapes(sizes: dict[str, Any], size: int, tmp_path: Path) -> None:
    model = random_mobile_sam(tiny_config(**sizes))
    path = write(tmp_path / "other.pt", to_released(model))
    assert load_checkpoint(path)[0].config.vision_config.image_size == size
    found, processor = load_checkpoint(path, image_size=model.config.vision_config.image_size)
    assert found.config.to_dict()["vision_config"] == model.config.to_dict()["vision_config"]
    assert processor.do_normalize is (sizes.get("patch_kernel") != 1)
    for ours, wanted in zip(answers(found), answers(model), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def drop(name: str) -> Callable[[State], Any]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def put(name: str, shape: tuple[int, ...]) -> Callable[[State], Any]:
    return lambda state: state | {name: torch.ones(shape)}


LAYER = "image_encoder.layers.1.blocks.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(f"{LAYER}.attn.proj.bias"), r"1 tensors are missing.*vision_encoder.layers.1.blocks.0.attn.proj.bias"),
        (drop(f"{LAYER}.local_conv.bn.running_var"), r"layers.1.blocks.0.local_conv.bn.running_var' is missing"),
        (drop(f"{LAYER}.attn.attention_biases"), r"layers.1.blocks.0.attn.attention_biases' is missing"),
        (drop("mask_decoder.iou_token.weight"), r"mask_decoder.iou_token.weight' is missing"),
        (drop("prompt_encoder.no_mask_embed.weight"), r"missing.*prompt_encoder.no_mask_embed.weight"),
        (
            drop("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
            r"2 tensors are missing.*prompt_encoder.shared_embedding.positional_embedding",
        ),
        (put("mask_decoder.hf_token.weight", (1, 16)), r"1 foreign tensors.*mask_decoder.hf_token.weight"),
        (put("image_encoder.head2.weight", (1, 16)), r"1 foreign tensors.*vision_encoder.head2.weight"),
        (put("extra.weight", (1,)), r"1 foreign tensors.*extra.weight"),
        (put(f"{LAYER}.attn.qkv.weight", (5, 12)), r"attn.qkv.weight has shape \(5, 12\), expected \(36, 12\)"),
        (put(f"{LAYER}.local_conv.bn.weight", (5,)), r"local_conv.bn do not have the shape \(12,\)"),
        (put(f"{LAYER}.attn.attention_biases", (2, 48)), "48 attention biases a head"),
        (put(f"{LAYER}.attn.attention_biases", (5, 25)), "num_heads must divide embed_dims"),
        (lambda state: {f"student.{key}": tensor for key, tensor in state.items()}, "foreign tensors, e.g. student."),
        (lambda state: {"image_encoder.patch_embed.proj.weight": torch.ones(1)}, "does not have MobileSAM's layout"),
        (lambda state: [1, 2], "does not have MobileSAM's layout|is not a state dict"),
        (lambda state: {"hook": print}, "holds more than tensors"),
    ],
)
def test_a_wrong_checkpoint_says_what_is_wrong(
    model: MobileSamModel, tmp_path: Path, change: Callable[[State], Any], message: str
) -> None:
    path = write(tmp_path / "mobile_sam.pt", change(to_released(model)))
    with pytest.raises(ModelError, match=message) as caught:
        load_checkpoint(path, image_size=96)
    assert str(path) in str(caught.value)


def test_tensors_outside_the_prefix_are_foreign(model: MobileSamModel, tmp_path: Path) -> None:
    state = {f"sam.{name}": tensor for name, tensor in to_released(model).items()} | {"teacher.a": torch.ones(1)}
    with pytest.raises(ModelError, match=r"foreign tensors, e.g. teacher.a"):
        load_checkpoint(write(tmp_path / "best.pt", state))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(model: MobileSamModel, tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "mobile_sam.pt", to_released(model))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match="cannot be read as a PyTorch checkpoint: it is cut"):
        load_checkpoint(path)


def test_a_size_that_the_strides_do_not_divide_is_refused(model: MobileSamModel, tmp_path: Path) -> None:
    path = write(tmp_path / "mobile_sam.pt", to_released(model))
    with pytest.raises(ModelError, match="image_size 100 is not a multiple of 16"):
        load_checkpoint(path, image_size=100)


# --- our directories


@pytest.mark.parametrize("auto", [MobileSamModel, AutoModel, AutoModelForMaskGeneration])
def test_a_directory_gives_the_same_model(model: MobileSamModel, tmp_path: Path, auto: Any) -> None:
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model_type"] == "mobile_sam"
    found, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert type(found) is MobileSamModel
    assert not any(info.values())
    assert all(torch.equal(a, b) for a, b in zip(answers(found), answers(model), strict=True))


def test_a_new_process_knows_the_models_after_importing_mixqsam(model: MobileSamModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "mobile")
    light = FAMILIES["sam_hq_light"]
    assert light.sample is not None
    light.model(light.sample()).save_pretrained(tmp_path / "light")
    for imports in ("import mixqsam, transformers", "from transformers import AutoModel; import transformers, mixqsam"):
        program = (
            f"{imports}\nfor name in ('mobile', 'light'):\n"
            f"    place = {str(tmp_path)!r} + '/' + name\n"
            "    print(type(transformers.AutoModel.from_pretrained(place)).__name__)\n"
            "    print(type(transformers.AutoConfig.from_pretrained(place)).__name__)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        names = ["MobileSamModel", "MobileSamConfig", "SamHqLightModel", "SamHqLightConfig"]
        assert done.stdout.split() == names, done.stderr


def test_a_directory_that_lacks_a_tensor_says_so(model: MobileSamModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["vision_encoder.layers.1.blocks.0.attn.attention_biases"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"vision_encoder.layers.1.blocks.0.attn.attention_biases"}
    assert not found.vision_encoder.layers[1].blocks[0].attn.attention_biases.any()


@pytest.mark.parametrize(
    "sizes",
    [
        {"depths": [1, 1]},
        {"window_sizes": [0, 4, 7]},
        {"window_sizes": [5, 65, 7]},
        {"embed_dims": [8, 12, 16, 10**9]},
        {"depths": [1, 10**9, 1, 1]},
        {"patch_kernel": 2},
        {"num_heads": [5, 4, 3]},
        {"embed_dims": [8] * 10**5},
        {"image_size": 90},
    ],
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_made(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need an entry|expected more than 0|is 1 or 3|must divide|not a multiple"):
        tiny_config(**sizes)


def test_the_processor_is_found_by_the_model_type(model: MobileSamModel, tmp_path: Path) -> None:
    path = write(tmp_path / "mobile_sam.pt", to_released(model))
    _, processor = load_checkpoint(path, image_size=96)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    batch = AutoProcessor.from_pretrained(tmp_path)(images=Image.new("RGB", (40, 20)), return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 96, 96)


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    values = tiny_config().to_dict()
    values["vision_config"]["image_size"] = 112
    with pytest.raises(ValueError, match="7 × 7 places of 112 pixels, but prompt_encoder_config is for 6 × 6 of 96"):
        MobileSamConfig.from_dict(values)
    values = tiny_config().to_dict()
    values["mask_decoder_config"]["hidden_size"] = 24
    with pytest.raises(ValueError, match=r"hidden_size of prompts and decoder differ: \[16, 24\]"):
        MobileSamConfig.from_dict(values)
