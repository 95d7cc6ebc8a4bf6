import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.tiny import random_model, tiny_config, to_meta
from safetensors.torch import load_file, save_file
from transformers import SamConfig

from mixqsam.errors import ModelError
from mixqsam.families.meta_layout import rename
from mixqsam.families.named_layout import config_of
from mixqsam.families.sam import SAM
from mixqsam.sam.load import Sam, load_sam

pytestmark = pytest.mark.versions


def meta_config() -> SamConfig:
    """Meta's files imply 8 decoder heads, and the epsilon of Meta's code."""
    config = tiny_config()
    config.mask_decoder_config.num_attention_heads = 8
    config.mask_decoder_config.layer_norm_eps = 1e-5
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
        found = config_of(rename(state))
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
        ("object", "is not a state dict of tensors"),
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
    for kind, message in (("sam9", "is a 'sam9' model"), ("sam2", "vision_config has no backbone_config")):
        (other / "config.json").write_text(json.dumps(config | {"model_type": kind}))
        with pytest.raises(ModelError, match=message):
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


FOREIGN = "vision_encoder.layers.0.adapter.weight"
TABLES = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


def rewritten(
    directory: Path, target: Path, *, config: dict[str, object] | None = None, **tensors: torch.Tensor | None
) -> Path:
    """A copy with other tensors (None removes one; dots are written as two underscores) and configuration."""
    copy_of(directory, target)
    state: dict[str, torch.Tensor | None] = dict(load_file(target / "model.safetensors"))
    state |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((target / "config.json").read_text()) | (config or {})
    (target / "config.json").write_text(json.dumps(values))
    return target


def test_foreign_tensors_of_a_directory_are_refused_by_name(model_directory: Path, tmp_path: Path) -> None:
    extra: dict[str, Any] = {
        FOREIGN.replace(".", "__"): torch.zeros(2),
        "mask_decoder__hq_token__weight": torch.zeros(1, 3),
    }
    directory = rewritten(model_directory, tmp_path / "adapter", **extra)
    with pytest.raises(ModelError, match=r"2 foreign tensors \(mask_decoder.hq_token.weight, vision_encoder.*adapter"):
        load_sam(directory)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kept", [(0,), (1,), (0, 1)])
def test_the_table_of_positions_is_the_files_wherever_it_lies(
    model_directory: Path, tmp_path: Path, kept: tuple[int, ...], tied: bool
) -> None:
    original = load_sam(model_directory)
    table = original.model.get_parameter(TABLES[0]).clone()
    tensors: dict[str, Any] = {TABLES[i].replace(".", "__"): table.clone() if i in kept else None for i in (0, 1)}
    directory = rewritten(model_directory, tmp_path / "once", config={"tie_word_embeddings": tied}, **tensors)
    expected = masks(original)
    for _ in range(2):
        sam = load_sam(directory)
        assert all(torch.equal(sam.model.get_parameter(name), table) for name in TABLES)
        assert sam.config.tie_word_embeddings
        assert torch.equal(masks(sam), expected)


@pytest.mark.parametrize("tied", [True, False])
def test_two_different_tables_of_positions_are_refused(model_directory: Path, tmp_path: Path, tied: bool) -> None:
    tensors: dict[str, Any] = {name.replace(".", "__"): torch.full((2, 8), float(i)) for i, name in enumerate(TABLES)}
    directory = rewritten(model_directory, tmp_path / "two", config={"tie_word_embeddings": tied}, **tensors)
    with pytest.raises(ModelError, match=rf"{TABLES[1]} and {TABLES[0]} differ"):
        load_sam(directory)
    path = tmp_path / "two.pth"
    torch.save(load_file(directory / "model.safetensors"), path)
    with pytest.raises(ModelError, match=rf"{TABLES[1]} and {TABLES[0]} differ"):
        load_sam(path)


def test_no_table_of_positions_is_refused(model_directory: Path, tmp_path: Path) -> None:
    tensors: dict[str, Any] = {name.replace(".", "__"): None for name in TABLES}
    directory = rewritten(model_directory, tmp_path / "none", config={"tie_word_embeddings": False}, **tensors)
    with pytest.raises(ModelError, match="2 tensors are missing"):
        load_sam(directory)


@pytest.mark.parametrize("entry", [None, "model", "state_dict", "model_state", "model_state_dict", "weights"])
@pytest.mark.parametrize("prefix", ["", "module.", "sam.", "module.sam.", "_orig_mod.", "model."])
@pytest.mark.parametrize("layout", ["meta", "transformers"])
def test_state_dicts_of_fine_tuners(tmp_path: Path, layout: str, prefix: str, entry: str | None) -> None:
    config = meta_config()
    if layout == "transformers":
        config.mask_decoder_config.layer_norm_eps = 1e-6
    model = random_model(config, seed=5)
    state = dict(model.state_dict())
    state = to_meta(state) if layout == "meta" else state
    state = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    path = tmp_path / "best.pth"
    torch.save({entry: state, "epoch": 3, "optimizer": {"lr": 0.1}} if entry else {**state, "epoch": 3}, path)
    sam = load_sam(path)
    pixels = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    expected = model(pixels, input_boxes=torch.tensor([[[3.0, 4, 50, 60]]])).pred_masks
    torch.testing.assert_close(masks(sam), expected, rtol=1e-5, atol=1e-5)


def test_a_file_of_safetensors(tmp_path: Path) -> None:
    save_file(to_meta(dict(random_model(meta_config(), seed=5).state_dict())), tmp_path / "sam.safetensors")
    assert load_sam(tmp_path / "sam.safetensors").image_size == 80
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "sam.safetensors").read_bytes()[:100])
    with pytest.raises(ModelError, match=r"cut.safetensors cannot be read as a safetensors file"):
        load_sam(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {n: t for n, t in s.items() if n.startswith("mask_dec")}, r"It holds \d+ tensors: mask_decoder"),
        (lambda s: {f"student.{n}": t for n, t in s.items()}, r"under the prefix 'student.'"),
        (lambda s: {f"sam.{n}": t for n, t in s.items()} | {"head.weight": torch.ones(1)}, "tensors: head.weight"),
        (lambda s: {f"{p}.{n}": t for n, t in s.items() for p in ("sam", "model")}, "prefix 'sam.' and 'model.'"),
        (lambda s: {"a": s, "b": s}, r"has the entries a, b"),
        (lambda s: {**s, "prompt_encoder.extra.weight": torch.ones(1)}, "1 foreign tensors"),
    ],
)
def test_what_is_not_understood_is_described(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    path = tmp_path / "odd.pth"
    torch.save(change(to_meta(dict(random_model(meta_config()).state_dict()))), path)
    with pytest.raises(ModelError, match=message):
        load_sam(path)


def test_tensors_whose_configuration_lies_beside_them(model_directory: Path) -> None:
    with pytest.raises(ModelError, match="has its config.json beside it; give the directory"):
        load_sam(model_directory / "model.safetensors")


def test_other_settings_give_other_fingerprints(model_directory: Path, tmp_path: Path) -> None:
    config = json.loads((model_directory / "config.json").read_text())
    other = config["mask_decoder_config"] | {"layer_norm_eps": 1e-5}
    directory = rewritten(model_directory, tmp_path / "eps", config={"mask_decoder_config": other})
    pixels = copy_of(model_directory, tmp_path / "pixels")
    processor = json.loads((pixels / "preprocessor_config.json").read_text())
    (pixels / "preprocessor_config.json").write_text(json.dumps(processor | {"do_normalize": False}))
    assert len({load_sam(place).fingerprint for place in (model_directory, directory, pixels)}) == 3
