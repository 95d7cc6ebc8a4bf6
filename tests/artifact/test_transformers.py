"""Quantized directories in transformers' own hands."""

import json
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForMaskGeneration, SamModel, SamVisionModel, pipeline

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import load_model, save_model
from mixqsam.calibrate import calibrate
from mixqsam.data.samples import Sample
from mixqsam.errors import ArtifactError
from mixqsam.progress import Silent
from mixqsam.runtime.packed import PackedLayer
from mixqsam.sam.load import Sam
from mixqsam.transformers_hook import register
from tests.artifact.test_store import change_config, flip_a_byte
from tests.oracles import mixture, nearest

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def shared_directory(sam: Sam, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    plan = mixture(sam, seed=1)
    model = nearest(sam, plan, calibrate(sam, samples, observer="omse", progress=Silent()))
    save_model(model, Manifest.of(model, plan, recipe="omse", prompts_per_image=1), folder)
    return folder


@pytest.fixture
def directory(shared_directory: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shared_directory.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def outputs(model: SamModel) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.randn(1, 3, 80, 80, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found = model(pixel_values=pixels, input_boxes=torch.tensor([[[5.0, 5, 60, 60], [1, 2, 30, 40]]]))
    return found.pred_masks, found.iou_scores


def same(first: SamModel, second: SamModel) -> bool:
    return all(torch.equal(a, b) for a, b in zip(outputs(first), outputs(second), strict=True))


@pytest.mark.parametrize("family", [SamModel, AutoModel, AutoModelForMaskGeneration])
def test_from_pretrained_gives_the_model_that_was_saved(shared_directory: Path, family: Any) -> None:
    model = family.from_pretrained(shared_directory)
    assert type(model) is SamModel
    assert any(isinstance(module, PackedLayer) for module in model.modules())
    assert same(model, load_model(shared_directory)[0].model)


@pytest.mark.parametrize(
    "order", ["import mixqsam; from transformers import SamModel", "from transformers import SamModel; import mixqsam"]
)
def test_importing_mixqsam_is_all_it_takes(shared_directory: Path, order: str) -> None:
    code = f"{order}\nprint(type(SamModel.from_pretrained({str(shared_directory)!r}).hf_quantizer).__name__)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "MixqsamQuantizer"


def test_importing_mixqsam_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, mixqsam; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_mixqsam_transformers_refuses_instead_of_guessing(shared_directory: Path) -> None:
    code = f"from transformers import SamModel\nSamModel.from_pretrained({str(shared_directory)!r})"
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert found.returncode != 0
    assert "size mismatch" in found.stderr or "mismatched" in found.stderr


def test_registering_twice_does_nothing(shared_directory: Path) -> None:
    register()
    register()
    assert SamModel.from_pretrained(shared_directory).hf_quantizer is not None


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_save_pretrained_gives_the_same_tensors_again(shared_directory: Path, tmp_path: Path, shard: str) -> None:
    model = SamModel.from_pretrained(shared_directory)
    outputs(model)  # what runs once is still saved as it was
    model.save_pretrained(tmp_path / "again", max_shard_size=shard)
    files = sorted((tmp_path / "again").glob("*.safetensors"))
    assert (len(files) > 1) == (shard == "20KB")
    first = load_file(shared_directory / "model.safetensors")
    second = {name: tensor for path in files for name, tensor in load_file(path).items()}
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) and first[n].dtype == second[n].dtype for n in first)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (shared_directory, tmp_path / "again")]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]
    assert same(SamModel.from_pretrained(tmp_path / "again"), model)
    # Our own reader takes shards too.
    assert same(load_model(tmp_path / "again")[0].model, model)


def test_a_device_map_and_another_dtype(shared_directory: Path) -> None:
    model = SamModel.from_pretrained(shared_directory, device_map="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert same(model, load_model(shared_directory)[0].model)


def test_dequantize_gives_plain_layers(shared_directory: Path) -> None:
    model = SamModel.from_pretrained(shared_directory).dequantize()
    assert not any(isinstance(module, PackedLayer) for module in model.modules())
    expected, _ = load_model(shared_directory)
    name = "vision_encoder.neck.conv2"
    assert isinstance(model.get_submodule(name), nn.Conv2d)
    assert torch.equal(model.get_submodule(name).weight, expected.model.get_submodule(name).stored.dequantize())
    assert torch.isfinite(outputs(model)[0]).all()


def test_the_mask_generation_pipeline_runs_it(shared_directory: Path) -> None:
    """Its last step, filtering, needs torchvision; loading, preparing and running do not."""
    generator = pipeline("mask-generation", model=str(shared_directory))
    image = Image.effect_noise((64, 40), 60).convert("RGB")
    batches = list(generator.preprocess(image, points_per_batch=512))
    found = generator._forward(dict(batches[0]), pred_iou_thresh=-100.0, stability_score_thresh=0.0)
    assert len(found["masks"])


@pytest.mark.parametrize(
    "name", ["vision_encoder.layers.0.mlp.lin1.weight", "vision_encoder.pos_embed", "mask_decoder.iou_token.weight"]
)
def test_an_altered_tensor_is_named(directory: Path, name: str) -> None:
    flip_a_byte(directory, name)
    with pytest.raises(ArtifactError, match=f"{name} was altered; its checksum"):
        SamModel.from_pretrained(directory)


def test_a_cut_file_is_refused(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Exception, match=r"(?i)incomplete|invalid|header|cut"):
        SamModel.from_pretrained(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 4}, "format version 4, this mixqsam reads up to 3"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_foreign_configuration_is_refused(directory: Path, changes: dict[str, object], message: str) -> None:
    change_config(directory, **changes)
    with pytest.raises(ArtifactError, match=message):
        SamModel.from_pretrained(directory)


def test_a_part_of_a_sam_is_refused(shared_directory: Path) -> None:
    # transformers itself sees that shapes differ.
    with pytest.raises(RuntimeError, match="raising an error"):
        SamVisionModel.from_pretrained(shared_directory)


def test_a_float_model_is_not_quantized_on_loading(model_directory: Path, shared_directory: Path) -> None:
    values = json.loads((shared_directory / "config.json").read_text())["quantization_config"]
    from mixqsam.artifact.registered import MixqsamConfig

    with pytest.raises(ValueError, match="does require the model to be pre-quantized"):
        SamModel.from_pretrained(model_directory, quantization_config=MixqsamConfig(**values))


def page_code(start: str) -> str:
    """The block of docs/formats/packed.md that has such a line."""
    page = (Path(__file__).parents[2] / "docs/formats/packed.md").read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    return next(block for block in blocks if start in block)


def raw_tensors(path: Path) -> tuple[dict[str, tuple[dict[str, Any], bytes]], dict[str, str]]:
    """Name → header and bytes, and the metadata, by the rules of safetensors."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__")
    data = content[8 + length :]
    return {name: (entry, data[slice(*entry["data_offsets"])]) for name, entry in header.items()}, metadata


def test_the_page_alone_is_enough_to_decode_a_weight(shared_directory: Path) -> None:
    tensors, _ = raw_tensors(shared_directory / "model.safetensors")
    config = json.loads((shared_directory / "config.json").read_text())
    namespace: dict[str, Any] = {}
    exec(page_code("def decode"), namespace)  # noqa: S102
    with torch.device("meta"):
        architecture = SamModel(SamModel.config_class.from_dict(config))
    shapes = {name: tuple(parameter.shape) for name, parameter in architecture.named_parameters()}
    model = SamModel.from_pretrained(shared_directory)
    seen = set()
    for unit, entry in config["quantization_config"]["units"].items():
        name = f"{unit}.weight"
        if name not in shapes:
            continue
        stream, zero = (np.frombuffer(tensors[part][1], np.uint8) for part in (name, f"{name}_zero"))
        header, content = tensors[f"{name}_scale"]
        scale = np.frombuffer(content, {"F32": np.float32, "BF16": np.uint16}[header["dtype"]])
        scale = (scale.astype(np.uint32) << 16).view(np.float32) if scale.dtype == np.uint16 else scale
        found = namespace["decode"](stream, scale, zero, shapes[name], entry["weight"])
        np.testing.assert_array_equal(found, model.get_submodule(unit).stored.dequantize().numpy())
        seen.add(entry["weight"])
    assert 3 in seen


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_checksums_lie_where_the_page_says(shared_directory: Path, tmp_path: Path, shard: str) -> None:
    SamModel.from_pretrained(shared_directory).save_pretrained(tmp_path, max_shard_size=shard)
    files = [raw_tensors(path) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert (len(files) > 1) == (shard != "1GB")
    content = {name: data for tensors, _ in files for name, (_, data) in tensors.items()}
    expected = "".join(f"{zlib.crc32(content[name]):08x}" for name in sorted(content))
    assert all(metadata["crc32"] == expected for _, metadata in files)


def test_a_file_that_another_tool_saved_again_can_be_mended(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt"})
    for read in (SamModel.from_pretrained, load_model):
        with pytest.raises(ArtifactError, match=r"lacks its checksums.*write the checksums again: docs/formats/packed"):
            read(directory)
    directory.rename(directory.with_name("out"))
    monkeypatch.chdir(directory.parent)
    exec(page_code("write_checksums"), {})  # noqa: S102
    assert same(SamModel.from_pretrained("out"), SamModel.from_pretrained("out"))
    assert load_model(Path("out"))


def test_the_table_of_positions_is_the_files_whatever_the_configuration_says(directory: Path) -> None:
    expected = SamModel.from_pretrained(directory)
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | {"tie_word_embeddings": False}))
    assert same(SamModel.from_pretrained(directory), expected)
    assert same(SamModel.from_pretrained(directory), expected)
