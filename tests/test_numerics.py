"""Models and images at the edge of what there can be: each is an error that names the place, or simply works."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from mixqsam.cli.main import app
from mixqsam.quantization.recipes import RECIPES


def quantize(model: Path, pictures: Path, output: Path, *more: str) -> Result:
    arguments = ["quantize", "-m", str(model), "-i", str(pictures), "-o", str(output), "--grid", "2", "--check", "1"]
    recipe = () if "--recipe" in more else ("--recipe", "omse")
    return CliRunner().invoke(app, [*arguments, "--fisher-draws", "4", *recipe, *more])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXQSAM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def changed(model_directory: Path, tmp_path: Path) -> Callable[[str, Callable[[torch.Tensor], object]], Path]:
    """The tiny model with one tensor changed in place."""

    def make(name: str, change: Callable[[torch.Tensor], object]) -> Path:
        folder = tmp_path / "changed"
        folder.mkdir()
        for path in model_directory.iterdir():
            if path.suffix == ".json":
                (folder / path.name).write_bytes(path.read_bytes())
        tensors = load_file(model_directory / "model.safetensors")
        change(tensors[name])
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name",
    [
        "vision_encoder.layers.0.attn.qkv.weight",
        "vision_encoder.neck.conv2.weight",
        "vision_encoder.layers.1.layer_norm1.bias",
        "mask_decoder.transformer.layers.0.mlp.lin1.bias",
        "vision_encoder.patch_embed.projection.weight",
    ],
)
def test_numbers_that_are_none_are_an_error(
    changed: Callable[..., Path], picture_folder: Path, tmp_path: Path, name: str, value: float
) -> None:
    model = changed(name, lambda tensor: tensor.view(-1)[0].fill_(value))
    result = quantize(model, picture_folder, tmp_path / "out")
    assert result.exit_code == 5, result.output
    assert f"the tensor {name} holds NaN or infinity" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", [name for name, one in RECIPES.items() if one.method is None])
def test_weights_of_zeros_and_constant_channels_are_quantized(
    changed: Callable[..., Path], picture_folder: Path, tmp_path: Path, recipe: str
) -> None:
    def change(tensor: torch.Tensor) -> None:
        tensor[:8] = 0.0
        tensor[8:16] = 0.25

    model = changed("vision_encoder.layers.0.mlp.lin2.weight", change)
    result = quantize(model, picture_folder, tmp_path / "out", "--recipe", recipe, "-b", "W3A3")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out/run.json").read_text())["models"]["mixed"]
    assert 0 <= figures["mean_iou"] <= 1


def test_activations_of_zero_range_are_quantized(
    changed: Callable[..., Path], picture_folder: Path, tmp_path: Path
) -> None:
    """A LayerNorm whose weight is zero gives its bias for every input: a constant, here zero."""
    model = changed("vision_encoder.layers.0.layer_norm2.weight", lambda tensor: tensor.zero_())
    folder = tmp_path / "changed"
    tensors = load_file(folder / "model.safetensors")
    tensors["vision_encoder.layers.0.layer_norm2.bias"].zero_()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result = quantize(model, picture_folder, tmp_path / "out")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 300)])
def test_thin_and_single_coloured_images(model_directory: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", size, (9, 9, 9)).save(folder / "thin.png")
    result = quantize(model_directory, folder, tmp_path / "out", "--count", "1")
    assert result.exit_code == 0, result.output
    box = f"0,0,{size[0]},{size[1]}"
    mask = tmp_path / "mask.png"
    arguments = ["predict", str(folder / "thin.png"), "-m", str(tmp_path / "out"), "--box", box, "-o", str(mask)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert np.asarray(Image.open(mask)).shape == (size[1], size[0])
