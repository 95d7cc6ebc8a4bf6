"""Write a quantized model, and read it back to the last bit.

For a unit `u` with a weight, `model.safetensors` holds `u.weight` (codes as a bit stream, one-dimensional uint8: see
`numeric.packing`), `u.weight_scale` [channels] float32, `u.weight_zero` [channels] uint8, `u.bias`, and the input's
`u.input_scale` (float32) and `u.input_zero` (uint8), scalars. A product holds `left_scale`, `left_zero`,
`right_scale` and `right_zero`. All other tensors are the float model's own.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers import SamConfig, SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from mixqsam.artifact.manifest import Manifest, parse_manifest
from mixqsam.errors import ArtifactError
from mixqsam.files import read_json, write_bytes, write_json
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.honesty import check_model
from mixqsam.numeric.modules import Product, QuantizedConv2d, QuantizedLinear, Quantizer
from mixqsam.numeric.weights import QuantizedTensor
from mixqsam.plan import UnitBits
from mixqsam.sam.attach import attach_layer, attach_product
from mixqsam.sam.attention import split_attention
from mixqsam.sam.load import Sam, default_processor

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_SHARED = "prompt_encoder.shared_embedding.positional_embedding"


def save_model(sam: Sam, manifest: Manifest, directory: Path) -> int:
    """Write weights, configuration and image processor into an existing directory.

    Returns:
        Bytes of `model.safetensors`.

    Raises:
        HonestyError: the model is not what its bits claim.
        OutputError: the directory cannot be written.
    """
    check_model(sam.model)
    content = save(_tensors(sam.model), metadata={"format": "pt"})
    write_bytes(directory / WEIGHTS, content)
    values = json.loads(sam.config.to_json_string(use_diff=True))
    values |= {"architectures": ["SamModel"], "quantization_config": manifest.model_dump()}
    write_json(directory / CONFIG, values)
    # Under its public name: which of the library's backends runs it is the reader's choice.
    processor = json.loads(sam.processor.to_json_string()) | {"image_processor_type": "SamImageProcessor"}
    write_json(directory / "preprocessor_config.json", processor)
    return len(content)


def _tensors(model: SamModel) -> dict[str, Tensor]:
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name != _SHARED and not _is_quantizer_state(model, name)
    }
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedConv2d):
            stored = module.stored
            tensors[f"{name}.weight"] = stored.packed()
            tensors[f"{name}.weight_scale"] = stored.grid.scale.reshape(-1).float().cpu().contiguous()
            tensors[f"{name}.weight_zero"] = stored.grid.zero.reshape(-1).to(torch.uint8).cpu()
            tensors |= _grid_tensors(f"{name}.input", module.input)
        elif isinstance(module, Product):
            tensors |= _grid_tensors(f"{name}.left", module.left) | _grid_tensors(f"{name}.right", module.right)
    return tensors


def _is_quantizer_state(model: SamModel, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), Quantizer)


def _grid_tensors(name: str, module: nn.Module) -> dict[str, Tensor]:
    if not isinstance(module, Quantizer):
        return {}
    return {f"{name}_scale": module.scale.float().cpu(), f"{name}_zero": module.zero.to(torch.uint8).cpu()}


def is_quantized(directory: Path) -> bool:
    """Whether a directory looks like one that mixqsam wrote."""
    if not (directory / CONFIG).is_file():
        return False
    try:
        values = read_json(directory / CONFIG, what="a configuration")
    except ArtifactError:
        return False
    return isinstance(values, dict) and "quantization_config" in values


def load_model(directory: Path, *, device: str = "cpu") -> tuple[Sam, Manifest]:
    """Read a quantized model; its outputs are bit-identical to those of the model that was saved.

    Raises:
        ArtifactError: a file is missing, cut, altered in form, or of a newer version; the message names the tensor.
    """
    path = directory / CONFIG
    values = read_json(path, what="the configuration of a quantized model")
    manifest = parse_manifest(values.get("quantization_config") if isinstance(values, dict) else None, source=str(path))
    try:
        config = SamConfig.from_dict({k: v for k, v in values.items() if k != "quantization_config"})
        with torch.device("meta"):
            model = split_attention(SamModel(config)).eval()
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{path} does not describe a SAM: {error}.") from error
    processor = _processor(directory, config)
    sam = Sam(model, processor, str(directory))
    plan = manifest.plan(sam.costs())
    with _Tensors(directory / WEIGHTS) as tensors:
        for name, bits in plan.bits.items():
            if not bits.is_float:
                _attach(model, name, bits, tensors)
        _fill(model, tensors)
        tensors.check_all_used()
    model.requires_grad_(False)
    return Sam(model.to(torch.device(device)), processor, str(directory)), manifest


def _processor(directory: Path, config: SamConfig) -> SamImageProcessorPil:
    if not (directory / "preprocessor_config.json").is_file():
        return default_processor(config)
    try:
        return SamImageProcessorPil.from_pretrained(str(directory), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{directory / 'preprocessor_config.json'} cannot be read: {error}.") from error


class _Tensors:
    """The tensors of a file, each taken once and checked for shape and type."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: Any = safe_open(path, framework="pt")
            self._left = set(self._file.keys())
        except FileNotFoundError as error:
            raise ArtifactError(f"{path} does not exist; the directory is not complete.") from error
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path} is cut or damaged: {error}.") from error

    def __enter__(self) -> "_Tensors":
        self._file.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._file.__exit__(*details)

    def take(self, name: str, *, shape: tuple[int, ...] | None, dtype: torch.dtype) -> Tensor:
        if name not in self._left:
            raise ArtifactError(f"{self._path}: the tensor {name} is missing.")
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except SafetensorError as error:
            raise ArtifactError(f"{self._path}: the tensor {name} cannot be read: {error}.") from error
        self._left.discard(name)
        if tensor.dtype != dtype or (shape is not None and tuple(tensor.shape) != shape):
            raise ArtifactError(
                f"{self._path}: {name} is {tuple(tensor.shape)} of {tensor.dtype}, "
                f"expected {'one axis' if shape is None else shape} of {dtype}."
            )
        if dtype.is_floating_point and not torch.isfinite(tensor).all():
            raise ArtifactError(f"{self._path}: {name} holds NaN or infinity.")
        return tensor

    def grid(self, name: str, *, bits: int, channels: int | None = None) -> AffineGrid:
        shape = () if channels is None else (channels,)
        scale = self.take(f"{name}_scale", shape=shape, dtype=torch.float32)
        zero = self.take(f"{name}_zero", shape=shape, dtype=torch.uint8).float()
        if not bool((scale > 0).all()) or bool((zero > 2**bits - 1).any()):
            raise ArtifactError(f"{self._path}: {name} has a scale that is not positive or a zero off its grid.")
        column = () if channels is None else (channels, 1)
        return AffineGrid(bits, scale.reshape(column), zero.reshape(column))

    def codes(self, name: str, *, grid: AffineGrid, shape: tuple[int, ...]) -> QuantizedTensor:
        packed = self.take(name, shape=None, dtype=torch.uint8)
        try:
            return QuantizedTensor.from_packed(packed, grid=grid, shape=shape)
        except ArtifactError as error:
            raise ArtifactError(f"{self._path}: {name}: {error}.") from error

    def check_all_used(self) -> None:
        if self._left:
            raise ArtifactError(f"{self._path} holds tensors that the model does not have, e.g. {min(self._left)}.")


def _attach(model: SamModel, name: str, bits: UnitBits, tensors: _Tensors) -> None:
    module = model.get_submodule(name)
    if isinstance(module, Product):
        left = tensors.grid(f"{name}.left", bits=bits.activation)
        right = tensors.grid(f"{name}.right", bits=bits.weight)
        attach_product(model, name, left=left, right=right)
        return
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise ArtifactError(f"{name} has no weight to quantize.")
    grid = tensors.grid(f"{name}.weight", bits=bits.weight, channels=weight.shape[0])
    stored = tensors.codes(f"{name}.weight", grid=grid, shape=tuple(weight.shape))
    attach_layer(model, name, weight=stored, grid=tensors.grid(f"{name}.input", bits=bits.activation))


def _fill(model: SamModel, tensors: _Tensors) -> None:
    """Put the float tensors in the places of the meta ones."""
    state = {
        name: tensors.take(name, shape=tuple(meta.shape), dtype=torch.float32)
        for name, meta in model.named_parameters()
        if name != _SHARED
    }
    state[_SHARED] = state["shared_image_embedding.positional_embedding"]
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
