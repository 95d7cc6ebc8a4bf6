"""Write a quantized model, and read it back to the last bit.

What is stored of a quantized unit is said in `numeric.tensor_file`. All other tensors, biases among them, are the
float model's own, stored as `sam.rest` says. The file's metadata hold a checksum of every tensor.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from mixqsam.artifact.manifest import Manifest, parse_manifest
from mixqsam.artifact.packed import stored_tensors
from mixqsam.artifact.stored import attach_units, take_codes
from mixqsam.errors import ArtifactError, DependencyError, ModelError
from mixqsam.families import family_of, find_family, prepare
from mixqsam.families.buffers import fill_buffers
from mixqsam.families.image_processor import from_place
from mixqsam.files import read_json, write_bytes, write_json
from mixqsam.numeric.checksums import with_checksums
from mixqsam.numeric.honesty import check_model
from mixqsam.numeric.tensor_file import TensorFile
from mixqsam.numeric.weights import QuantizedTensor
from mixqsam.runtime.build import arrange, packed_layer
from mixqsam.sam.load import Sam

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"


def save_model(sam: Sam, manifest: Manifest, directory: Path) -> int:
    """Write weights, configuration and image processor into an existing directory.

    Returns:
        Bytes of `model.safetensors`.

    Raises:
        HonestyError: the model is not what its bits claim.
        OutputError: the directory cannot be written.
    """
    check_model(sam.model, manifest.plan(sam.costs()))
    content = with_checksums(stored_tensors(sam.model, sam.rest))
    write_bytes(directory / WEIGHTS, content)
    values = json.loads(sam.config.to_json_string(use_diff=True))
    values |= {
        "architectures": [sam.family.model.__name__],
        "dtype": "float32",
        "quantization_config": manifest.model_dump(exclude_none=True),
    }
    write_json(directory / CONFIG, values)
    # Under its public name: which of the library's backends runs it is the reader's choice.
    processor = json.loads(sam.processor.to_json_string()) | {"image_processor_type": sam.family.framing.public}
    write_json(directory / "preprocessor_config.json", processor)
    return len(content)


def is_quantized(directory: Path) -> bool:
    """Whether a directory looks like one that mixqsam wrote."""
    if not (directory / CONFIG).is_file():
        return False
    try:
        values = read_json(directory / CONFIG, what="a configuration")
    except ArtifactError:
        return False
    return isinstance(values, dict) and "quantization_config" in values


def load_model(directory: Path, *, device: str = "cpu", integer: bool = False) -> tuple[Sam, Manifest]:
    """Read a quantized model.

    Args:
        directory: what `save_model` wrote.
        device: a torch device.
        integer: keep the weights packed and compute in whole numbers where that can be done; otherwise quantization is
            simulated in float, and the outputs are bit-identical to those of the model that was saved.

    Raises:
        ArtifactError: a file is missing, cut, altered in form, or of a newer version; the message names the tensor.
    """
    sam, manifest = _skeleton(directory)
    model = sam.model
    with TensorFile(*weight_files(directory), checked=manifest.format_version > 1) as tensors:
        attach_units(model, manifest, tensors, layer=packed_layer if integer else None)
        rest = _fill(model, tensors, manifest)
        tensors.check_all_used()
    model.requires_grad_(False)
    if integer:
        arrange(model)
    return replace(sam, model=model.to(torch.device(device)), rest=rest), manifest


def _skeleton(directory: Path) -> tuple[Sam, Manifest]:
    """The model without its tensors, and what its directory says of it."""
    path = directory / CONFIG
    values = read_json(path, what="the configuration of a quantized model")
    manifest = parse_manifest(values.get("quantization_config") if isinstance(values, dict) else None, source=str(path))
    try:
        family = find_family(str(values.get("model_type")), source=str(path))
        family.check(values)
        config = family.config.from_dict({k: v for k, v in values.items() if k != "quantization_config"})
        with torch.device("meta"):
            model = prepare(family.model(config)).eval()
        sam = Sam(model, from_place(family.framing, directory, config), str(directory))
        costs = sam.costs()
    except (ArtifactError, DependencyError, ModelError):
        raise
    except Exception as error:
        # Sizes that do not fit each other fail anywhere in transformers and torch, with whatever error that has there.
        reason = " ".join(str(error).split())[:300]
        raise ArtifactError(f"{path} does not describe a model that is known: {reason}.") from error
    manifest.check(costs, dict(model.named_parameters()))
    return sam, manifest


def weight_files(directory: Path) -> list[Path]:
    """The file with the weights, or the shards that the index lists.

    Raises:
        ArtifactError: the index is malformed, or names a file outside the directory.
    """
    index = directory / INDEX
    if not index.is_file():
        return [directory / WEIGHTS]
    values = read_json(index, what="the index of a model in several files")
    places = values.get("weight_map") if isinstance(values, dict) else None
    names = list(places.values()) if isinstance(places, dict) else []
    if not names or not all(isinstance(name, str) and _is_file_name(name) for name in names):
        raise ArtifactError(f"{index} is malformed; expected a weight_map with names of files beside it.")
    return [directory / name for name in sorted(set(names))]


def _is_file_name(name: str) -> bool:
    """Whether a name is that of a file in the same directory, and nothing else."""
    return name.endswith(".safetensors") and Path(name).name == name and "\0" not in name


def _fill(model: PreTrainedModel, tensors: TensorFile, manifest: Manifest) -> dict[str, QuantizedTensor]:
    """Put the tensors of the rest in the places of the meta ones; returns those that are stored as codes."""
    shapes = {name: tuple(meta.shape) for name, meta in model.named_parameters()}
    rest = take_codes(manifest, tensors, shapes)
    state = {name: stored.dequantize() for name, stored in rest.items()}
    tied = family_of(model.config).tied
    for name, shape in shapes.items():
        if name not in rest and name not in tied:
            state[name] = tensors.take(name, shape=shape, dtype=torch.float32)
    state |= {name: state[owner] for name, owner in tied.items()}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    fill_buffers(model)
    return rest
