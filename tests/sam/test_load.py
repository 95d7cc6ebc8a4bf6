import json
import shutil
from importlib import resources
from pathlib import Path

import pytest
import torch
from benchmarks.tiny import random_model, tiny_config, to_meta
from safetensors.torch import load_file, save_file
from transformers import SamConfig

from mixqsam.errors import ModelError
from mixqsam.families.meta_layout import config_of, rename
from mixqsam.families.sam import SAM
from mixqsam.sam.load import Sam, load_sam

pytestmark = pytest.mark.versions


def meta_config() -> SamConfig:
    """Meta's files imply 8 decoder heads."""
    config = tiny_config()
    config.mask_decoder_config.num_attention_heads = 8
    return config


@pytest.fixture
def meta_file(tmp_path: Path) -> Path:
    path = tmp_path / "sam_vit_t.pth"
    torch.save(to_meta(random_model(meta_config(), seed=5).state_dict()), path)
    return path


def masks(sam: Sam) -> torch.Tensor:
    pixels = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    found: torch.Tensor = sam.model(pixels, input_boxes=torch.tensor([[[3.0, 4, 50, 60]]])).pred_masks
    return found


def test_the_embedded_model_has_the_tensors_of_its_file() -> None:
    sam = load_sam("sam-tiny")
    assert len(sam.costs().units) == 120
    assert sam.processor.size["longest_edge"] == 256
    file = load_file(str(resources.files("mixqsam") / "assets/sam-tiny/model.safetensors"))
    state = sam.model.state_dict()
    assert state.keys() - set(SAM.tied) == file.keys() - set(SAM.tied)
    assert [name for name, tensor in file.items() if not torch.equal(state[name], tensor)] == []


def test_the_fingerprint_is_that_of_names_shapes_and_values(model_directory: Path) -> None:
    same, other = load_sam(model_directory), load_sam(model_directory)
    assert same.fingerprint == load_sam(model_directory).fingerprint
    # It is kept once it has been computed, so the tensor is changed before.
    other.model.vision_encoder.pos_embed.view(-1)[-1] += 1e-6
    assert other.fingerprint != same.fingerprint
    turned = load_sam(model_directory)
    weight = turned.model.vision_encoder.pos_embed
    weight.data = weight.data.reshape(weight.shape[::-1])
    assert turned.fingerprint != same.fingerprint


def test_metas_layout_gives_the_same_model(meta_file: Path) -> None:
    sam = load_sam(meta_file)
    assert sam.processor.pad_size["height"] == 80
    reference = random_model(meta_config(), seed=5)
    pixels = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    expected = reference(pixels, input_boxes=torch.tensor([[[3.0, 4, 50, 60]]])).pred_masks
    torch.testing.assert_close(masks(sam), expected, rtol=1e-4, atol=1e-4)


def test_metas_layout_of_the_released_sizes_gives_their_configurations() -> None:
    from transformers import SamModel

    for hidden, depth, heads, spans in ((768, 12, 12, [2, 5, 8, 11]), (1280, 32, 16, [7, 15, 23, 31])):
        config = SamConfig(
            vision_config={
                "hidden_size": hidden,
                "num_hidden_layers": depth,
                "num_attention_heads": heads,
                "global_attn_indexes": spans,
            }
        )
        with torch.device("meta"):
            model = SamModel(config)
        state = to_meta(dict(model.state_dict()))
        found = config_of(state)
        assert found.vision_config.num_attention_heads == heads
        assert list(found.vision_config.global_attn_indexes) == spans
        assert found.vision_config.window_size == 14
        assert (
            rename(state).keys() | {"prompt_encoder.shared_embedding.positional_embedding"} == model.state_dict().keys()
        )


def damaged(path: Path, how: str) -> None:
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return
    state = torch.load(path, weights_only=True)
    if how == "missing":
        del state["image_encoder.blocks.1.mlp.lin2.weight"]
    elif how == "shape":
        state["image_encoder.blocks.1.mlp.lin2.weight"] = torch.zeros(3, 3)
    elif how == "foreign":
        state["mask_decoder.hq_token.weight"] = torch.zeros(1, 3)
    elif how == "other":
        state = {"layer.weight": torch.zeros(2)}
    elif how == "object":
        state = {"model": [1, 2]}
    torch.save(state, path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "cannot be read as a PyTorch checkpoint"),
        ("missing", r"1 tensors are missing \(vision_encoder.layers.1.mlp.lin2.weight\)"),
        ("shape", r"layers.1.mlp.lin2.weight has shape \(3, 3\), expected \(24, 32\)"),
        ("foreign", r"foreign tensors \(mask_decoder.hq_token.weight\)"),
        ("other", "has a layout that is not known"),
        ("object", "no state dict of tensors"),
    ],
)
def test_a_wrong_pth_says_what_is_wrong(meta_file: Path, how: str, message: str) -> None:
    damaged(meta_file, how)
    with pytest.raises(ModelError, match=message):
        load_sam(meta_file)


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"hook": print}, path)
    with pytest.raises(ModelError, match="holds more than tensors") as caught:
        load_sam(path)
    assert "weights_only" not in str(caught.value)


def copy_of(directory: Path, target: Path) -> Path:
    shutil.copytree(directory, target)
    return target


def test_directory_errors(model_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Unknown model 'sam-huge'"):
        load_sam("sam-huge")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="config.json is missing or has no model_type"):
        load_sam(tmp_path / "empty")

    other = copy_of(model_directory, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "sam2"}))
    with pytest.raises(ModelError, match="is a 'sam2' model"):
        load_sam(other)

    quantized = copy_of(model_directory, tmp_path / "quantized")
    (quantized / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "x"}}))
    with pytest.raises(ModelError, match="is quantized already"):
        load_sam(quantized)

    cut = copy_of(model_directory, tmp_path / "cut")
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be loaded as a SAM"):
        load_sam(cut)

    lacking = copy_of(model_directory, tmp_path / "lacking")
    tensors = load_file(lacking / "model.safetensors")
    del tensors["vision_encoder.neck.conv1.weight"]
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors are missing \(vision_encoder.neck.conv1.weight"):
        load_sam(lacking)


def test_a_directory_without_a_processor_gets_one_of_its_size(model_directory: Path, tmp_path: Path) -> None:
    bare = copy_of(model_directory, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    assert load_sam(bare).processor.pad_size["height"] == 80
