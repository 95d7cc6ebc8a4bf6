"""Checkpoints of SAM-HQ and SAM 2 in the layouts of their own projects, and those for videos."""

import json
import re
from pathlib import Path

import pytest
import torch
from benchmarks.tiny import to_meta
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Sam2VideoConfig

from mixqsam.errors import ModelError
from mixqsam.families import FAMILIES, sam2_layout, sam_hq
from mixqsam.families.compatibility import random_model
from mixqsam.families.meta_layout import TWO_WAY_EPS
from mixqsam.sam.load import Sam, load_sam
from tests.families.released import to_hq

# transformers' names → Meta's of SAM 2, written down apart from the product's table.
_TO_SAM2 = (
    (r"^vision_encoder\.backbone\.patch_embed\.projection", "image_encoder.trunk.patch_embed.proj"),
    (r"^vision_encoder\.backbone", "image_encoder.trunk"),
    (r"^vision_encoder\.neck\.convs\.(\d)", r"image_encoder.neck.convs.\1.conv"),
    (r"^no_memory_embedding", "no_mem_embed"),
    (
        r"^prompt_encoder\.shared_embedding\.positional_embedding",
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"^prompt_encoder\.mask_embed\.conv1", "sam_prompt_encoder.mask_downscaling.0"),
    (r"^prompt_encoder\.mask_embed\.layer_norm1", "sam_prompt_encoder.mask_downscaling.1"),
    (r"^prompt_encoder\.mask_embed\.conv2", "sam_prompt_encoder.mask_downscaling.3"),
    (r"^prompt_encoder\.mask_embed\.layer_norm2", "sam_prompt_encoder.mask_downscaling.4"),
    (r"^prompt_encoder\.mask_embed\.conv3", "sam_prompt_encoder.mask_downscaling.6"),
    (r"^prompt_encoder", "sam_prompt_encoder"),
    (r"^mask_decoder\.upscale_conv1", "sam_mask_decoder.output_upscaling.0"),
    (r"^mask_decoder\.upscale_layer_norm", "sam_mask_decoder.output_upscaling.1"),
    (r"^mask_decoder\.upscale_conv2", "sam_mask_decoder.output_upscaling.3"),
    (r"^mask_decoder", "sam_mask_decoder"),
    (r"layer_norm_final_attn", "norm_final_attn"),
    (r"\.layer_norm(\d)", r".norm\1"),
    (r"\.o_proj\.", ".out_proj."),
)


def to_sam2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of transformers' as Meta's checkpoints have it, with tensors for videos."""
    found = {"maskmem_tpos_enc": torch.zeros(7, 1, 1, 16), "memory_attention.layers.0.norm1.weight": torch.ones(16)}
    for name, tensor in state.items():
        if name.startswith("shared_image_embedding"):
            continue
        if name == "prompt_encoder.point_embed.weight":
            found |= {f"sam_prompt_encoder.point_embeddings.{i}.weight": row[None] for i, row in enumerate(tensor)}
            continue
        # MLPs of two layers (blocks) and of three (heads).
        last = 1 if ".mlp." in name else 2
        new = re.sub(r"\.layers\.0\.(weight|bias)$", r".layers.1.\1", name)
        new = new.replace(".proj_in.", ".layers.0.").replace(".proj_out.", f".layers.{last}.")
        for pattern, replacement in _TO_SAM2:
            new = re.sub(pattern, replacement, new)
        found[new] = tensor.clone()
    return found


def same_tensors(first: Sam, second: Sam) -> bool:
    one, other = first.model.state_dict(), second.model.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def sam2_directory(tmp_path: Path) -> Path:
    with torch.no_grad():
        model = random_model(FAMILIES["sam2"])
        model.prompt_encoder.shared_embedding.positional_embedding.normal_()
        model.shared_image_embedding.positional_embedding.copy_(
            model.prompt_encoder.shared_embedding.positional_embedding
        )
    model.save_pretrained(tmp_path / "sam2")
    return tmp_path / "sam2"


@pytest.fixture
def sam2_state(sam2_directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Of the tiny model in Meta's layout, which knows its sizes."""
    monkeypatch.setitem(sam2_layout.SIZES, (4, (1, 1, 2, 1)), (1, (4, 2, 3, 2), (3,)))
    return to_sam2(load_file(sam2_directory / "model.safetensors"))


def test_metas_sam2_has_the_same_tensors_under_other_names(
    sam2_state: dict[str, Tensor], sam2_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"model": sam2_state}, tmp_path / "sam2.1_hiera_tiny.pt")
    found = load_sam(tmp_path / "sam2.1_hiera_tiny.pt")
    assert same_tensors(found, load_sam(sam2_directory))
    assert "2 other tensors are left out (maskmem_tpos_enc, memory_attention.layers.0.norm1.weight)" in caplog.text
    backbone = found.config.vision_config.backbone_config
    assert (backbone.embed_dim_per_stage, backbone.blocks_per_stage) == ([4, 8, 12, 16], [1, 1, 2, 1])
    # Released models see 1024 pixels, whatever their other sizes.
    assert found.image_size == 1024


def test_a_sam2_that_is_not_whole_is_refused(sam2_state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for name in ("no_mem_embed", "image_encoder.trunk.pos_embed", "sam_prompt_encoder.point_embeddings.2.weight"):
        torch.save({"model": {key: tensor for key, tensor in sam2_state.items() if key != name}}, path)
        with pytest.raises(ModelError, match=r"is missing|are missing"):
            load_sam(path)
    torch.save({"model": sam2_state | {"image_encoder.trunk.adapter": torch.zeros(1)}}, path)
    with pytest.raises(ModelError, match=r"1 foreign tensors \(vision_encoder.backbone.adapter\)"):
        load_sam(path)


def test_sizes_that_no_released_sam2_has_are_refused(sam2_directory: Path, tmp_path: Path) -> None:
    torch.save({"model": to_sam2(load_file(sam2_directory / "model.safetensors"))}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"4 channels and \[1, 1, 2, 1\] blocks; known are 96 channels"):
        load_sam(tmp_path / "a.pt")


def test_of_a_video_model_the_image_part_is_loaded(
    sam2_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = json.loads((sam2_directory / "config.json").read_text())
    parts = {name: values[name] for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    for name in ("prompt_encoder_config", "mask_decoder_config"):
        parts[name]["model_type"] = parts[name]["model_type"].replace("sam2_", "sam2_video_")
    video = Sam2VideoConfig(**parts).to_dict()
    folder = tmp_path / "video"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(video))
    state = load_file(sam2_directory / "model.safetensors")
    more = {"memory_encoder.a.weight": torch.zeros(2), "no_object_pointer": torch.zeros(1, 16)}
    save_file(state | more, folder / "model.safetensors", {"format": "pt"})
    found = load_sam(folder)
    assert found.family.name == found.config.model_type == "sam2"
    assert same_tensors(found, load_sam(sam2_directory))
    assert "SAM 2 for videos. Its image part is loaded; 2 other tensors are left out" in caplog.text
    assert not hasattr(found.config, "num_maskmem")

    save_file({k: v for k, v in state.items() if k != "no_memory_embedding"} | more, folder / "model.safetensors")
    with pytest.raises(ModelError, match="no_memory_embedding"):
        load_sam(folder)
    save_file(state | {"adapter.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"foreign tensors \(adapter.weight\)"):
        load_sam(folder)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in video.items() if k != "vision_config"}))
    with pytest.raises(ModelError, match="SAM 2 for videos, but its config.json does not say 'vision_config'"):
        load_sam(folder)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("backbone_channel_list", [16, 12, 8, 5], "backbone_channel_list is"),
        ("backbone_feature_sizes", [[32, 32], [8, 8], [4, 4]], "backbone_feature_sizes is"),
        ("fpn_hidden_size", 24, "hidden_size of prompt encoder and mask decoder differ"),
        ("fpn_hidden_size", 10**9, "vision_config.fpn_hidden_size is 1e"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sam2_directory: Path, entry: str, value: object, message: str) -> None:
    path = sam2_directory / "config.json"
    values = json.loads(path.read_text())
    values["vision_config"][entry] = value
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=message):
        load_sam(sam2_directory)


def test_a_processor_that_pads_is_refused_where_images_are_stretched(sam2_directory: Path) -> None:
    sam = load_sam(sam2_directory)
    sam.processor.save_pretrained(sam2_directory)
    assert load_sam(sam2_directory).pixel_settings == sam.pixel_settings
    path = sam2_directory / "preprocessor_config.json"
    for field, value in (("size", {"height": 64, "width": 32}), ("do_pad", True), ("do_resize", False)):
        path.write_text(json.dumps(json.loads(sam.processor.to_json_string()) | {field: value}))
        with pytest.raises(ModelError, match=rf"preprocessor_config.json cannot be used: {field} is"):
            load_sam(sam2_directory)


@pytest.mark.parametrize("layout", ["released", "named"])
def test_sam_hq_in_other_layouts_has_the_same_tensors(tmp_path: Path, layout: str) -> None:
    with torch.no_grad():
        config = sam_hq._sample()
        config.mask_decoder_config.num_attention_heads = 8
        config.mask_decoder_config.layer_norm_eps = TWO_WAY_EPS
        torch.manual_seed(0)
        model = FAMILIES["sam_hq"].model(config)
    model.save_pretrained(tmp_path / "hq")
    state = load_file(tmp_path / "hq/model.safetensors")
    if layout == "released":
        state = to_hq(to_meta(state))
        assert "mask_decoder.hf_mlp.layers.1.weight" in state
        assert "mask_decoder.embedding_maskfeature.3.bias" in state
    torch.save(state, tmp_path / "sam_hq_vit_b.pth")
    found = load_sam(tmp_path / "sam_hq_vit_b.pth")
    assert found.family.name == "sam_hq"
    assert same_tensors(found, load_sam(tmp_path / "hq"))


def test_of_a_whole_sam3_the_tracker_is_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with torch.no_grad():
        model = random_model(FAMILIES["sam3_tracker"])
    model.save_pretrained(tmp_path / "tracker")
    values = json.loads((tmp_path / "tracker/config.json").read_text())
    parts = {name: values[name] for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    folder = tmp_path / "whole"
    folder.mkdir()
    config = {"model_type": "sam3_video", "tracker_config": parts | {"num_maskmem": 7}, "detector_config": {}}
    (folder / "config.json").write_text(json.dumps(config))
    state = {_of_sam3(name): tensor for name, tensor in model.state_dict().items()}
    more = {"detector_model.text_encoder.a": torch.zeros(2), "tracker_model.memory_encoder.b": torch.zeros(2)}
    save_file(state | more, folder / "model.safetensors", {"format": "pt"})
    found = load_sam(folder)
    assert found.config.model_type == "sam3_tracker"
    assert same_tensors(found, load_sam(tmp_path / "tracker"))
    assert "is SAM 3. Its image part is loaded; 2 other tensors are left out" in caplog.text
    save_file(state | {"tracker_model.adapter": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 foreign tensors \((tracker_model\.)?adapter\)"):
        load_sam(folder)


def _of_sam3(name: str) -> str:
    """A name of the tracker's as the checkpoint of the whole SAM 3 has it."""
    if name.startswith("vision_encoder.neck."):
        return name.replace("vision_encoder.neck.", "tracker_neck.", 1)
    return f"detector_model.{name}" if name.startswith("vision_encoder.") else f"tracker_model.{name}"
