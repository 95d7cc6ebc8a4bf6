"""Write a quantized model, and read it back to the last bit.

What is stored of a quantized unit is said in `numeric.tensor_file`. All other tensors, biases among them, are the
float model's own.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import SamConfig, SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from mixqsam.artifact.manifest import Manifest, parse_manifest
from mixqsam.errors import ArtifactError
from mixqsam.files import read_json, write_bytes, write_json
from mixqsam.numeric.honesty import check_model
from mixqsam.numeric.modules import Product, QuantizedLayer
from mixqsam.numeric.quantizers import ActivationQuantizer
from mixqsam.numeric.tensor_file import TensorFile
from mixqsam.plan import UnitBits
from mixqsam.sam.attach import attach_stored
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
    check_model(sam.model, manifest.plan(sam.costs()))
    content = save(_tensors(sam.model), metadata={"format": "pt"})
    write_bytes(directory / WEIGHTS, content)
    values = json.loads(sam.config.to_json_string(use_diff=True))
    values |= {"architectures": ["SamModel"], "quantization_config": manifest.model_dump(exclude_none=True)}
    write_json(directory / CONFIG, values)
    # Under its public name: which of the library's backends runs it is the reader's choice.
    processor = json.loads(sam.processor.to_json_string()) | {"image_processor_type": "SamImageProcessor"}
    write_json(directory / "preprocessor_config.json", processor)
    return len(content)


def _tensors(model: SamModel) -> dict[str, Tensor]:
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name != _SHARED and not isinstance(model.get_submodule(name.rpartition(".")[0]), ActivationQuantizer)
    }
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer | Product):
            tensors |= {f"{name}.{part}": tensor for part, tensor in module.tensors().items()}
    return tensors


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
    manifest.check(sam.costs())
    with TensorFile(directory / WEIGHTS) as tensors:
        for name, entry in manifest.units.items():
            bits = UnitBits(entry.weight, entry.activation)
            attach_stored(model, name, bits=bits, kinds=entry.kinds, tensors=tensors)
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


def _fill(model: SamModel, tensors: TensorFile) -> None:
    """Put the float tensors in the places of the meta ones."""
    state = {
        name: tensors.take(name, shape=tuple(meta.shape), dtype=torch.float32)
        for name, meta in model.named_parameters()
        if name != _SHARED
    }
    state[_SHARED] = state["shared_image_embedding.positional_embedding"]
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
