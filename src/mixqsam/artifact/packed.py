"""Packed weights in a model that transformers loads: empty places before, working modules after, tensors to save."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.stored import attach_units, take_codes
from mixqsam.errors import ArtifactError, HonestyError
from mixqsam.families import FAMILIES, family_of, prepare
from mixqsam.numeric.checksums import checksum, lacking_checksums, read_checksums
from mixqsam.numeric.memory import align_tensors
from mixqsam.numeric.modules import Product, StoredLayer
from mixqsam.numeric.quantizers import ActivationQuantizer
from mixqsam.numeric.tensor_file import TensorTable
from mixqsam.numeric.weights import QuantizedTensor
from mixqsam.runtime.build import arrange, packed_layer
from mixqsam.runtime.packed import PackedConv2d, PackedLayer
from mixqsam.sam.compact import dishonest, set_parameter
from mixqsam.sam.rest import BITS, form_of

_TYPES = {"U8": torch.uint8, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Places:
    """Buffers of the stored shapes, which transformers fills.

    Attributes:
        manifest: what the directory says.
        shapes: parameter that a buffer stands for → its own shape.
        names: all buffers.
        sums: tensor → checksum, as written; None for a file without.
    """

    manifest: Manifest
    shapes: Mapping[str, tuple[int, ...]]
    names: Sequence[str]
    sums: Mapping[str, str] | None

    @classmethod
    def make(cls, model: PreTrainedModel, manifest: Manifest, files: Sequence[str] | None) -> "Places":
        """Prepare a model without tensors.

        Raises:
            ArtifactError: the model is not a whole one of a known family, or the files are not safetensors.
        """
        if not any(isinstance(model, family.model) for family in FAMILIES.values()):
            known = " or ".join(family.model.__name__ for family in FAMILIES.values())
            raise ArtifactError(f"A directory of mixqsam holds a {known}; {type(model).__name__} cannot be loaded.")
        if not files or not all(str(file).endswith(".safetensors") for file in files):
            raise ArtifactError("A directory of mixqsam holds its weights in safetensors; none were found.")
        header, metadata = _headers([str(file) for file in files])
        prepare(model)
        parameters = dict(model.named_parameters())
        packed = [name for name in (f"{unit}.weight" for unit in manifest.units) if name in parameters]
        shapes = {name: tuple(parameters[name].shape) for name in [*packed, *manifest.eight_bit]}
        for name in shapes:
            owner, _, leaf = name.rpartition(".")
            del model.get_submodule(owner)._parameters[leaf]
        names = [name for name in header if name not in parameters or name in shapes]
        for name in names:
            owner, _, leaf = name.rpartition(".")
            shape, kind = header[name]
            model.get_submodule(owner).register_buffer(leaf, torch.empty(shape, dtype=kind, device="meta"))
        # A file of the first format has no checksums.
        sums = read_checksums(metadata, header) if manifest.format_version > 1 else None
        if manifest.format_version > 1 and sums is None:
            raise ArtifactError(lacking_checksums(files[0]))
        return cls(manifest, shapes, names, sums)

    def fill(self, model: PreTrainedModel) -> dict[str, QuantizedTensor]:
        """Turn filled buffers into modules that compute; returns what is stored as codes of 8 bits.

        Raises:
            ArtifactError: a tensor was altered, or is not what it should be; the message names it.
        """
        table = TensorTable({name: _take_buffer(model, name) for name in self.names}, source="model.safetensors")
        rest = take_codes(self.manifest, table, self.shapes)
        for name, shape in self.shapes.items():
            set_parameter(model, name, rest[name].dequantize() if name in rest else torch.empty(shape, device="meta"))
        attach_units(model, self.manifest, table, layer=packed_layer)
        table.check_all_used()
        for name, owner in family_of(model.config).tied.items():
            # Whatever the configuration says of tied tensors: the file holds one.
            set_parameter(model, name, model.get_parameter(owner))
        model.requires_grad_(False)
        align_tensors(model)
        self._verify(stored_tensors(model, rest))
        arrange(model)
        return rest

    def _verify(self, tensors: Mapping[str, Tensor]) -> None:
        for name, expected in (self.sums or {}).items():
            if name not in tensors or checksum(tensors[name]) != expected:
                raise ArtifactError(f"{name} was altered; its checksum is not the one that was written.")


def _headers(files: Sequence[str]) -> tuple[dict[str, tuple[list[int], torch.dtype]], dict[str, str]]:
    """Name → shape and type of all tensors, and the metadata."""
    found: dict[str, tuple[list[int], torch.dtype]] = {}
    metadata: dict[str, str] = {}
    with ExitStack() as stack:
        for path in files:
            file: Any = stack.enter_context(safe_open(path, framework="pt"))
            metadata |= file.metadata() or {}
            for name in file.keys():  # noqa: SIM118  (the file is not a mapping)
                piece = file.get_slice(name)
                if piece.get_dtype() not in _TYPES:
                    raise ArtifactError(f"{path}: {name} has the type {piece.get_dtype()}, which the format has not.")
                found[name] = (piece.get_shape(), _TYPES[piece.get_dtype()])
    return found, metadata


def _take_buffer(model: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    tensor = module.get_buffer(leaf)
    del module._buffers[leaf]
    return tensor


def stored_tensors(model: PreTrainedModel, rest: Mapping[str, QuantizedTensor]) -> dict[str, Tensor]:
    """All that is written of a quantized model.

    Args:
        model: fake-quantized or packed.
        rest: tensors of no unit that are stored as codes.

    Raises:
        HonestyError: one of these is not what its codes say.
    """
    if odd := dishonest(model, rest):
        raise HonestyError(
            f"{odd}: the tensor in use is not the one on its {BITS}-bit grid; it was changed after the model was "
            "quantized. To fine-tune, train model.dequantize(), save that, and quantize it again."
        )
    tied = family_of(model.config).tied
    tensors = {
        name: _as_stored(parameter.detach().cpu().contiguous())
        for name, parameter in model.named_parameters()
        if name not in tied and name not in rest
    }
    for name, module in model.named_modules():
        if isinstance(module, StoredLayer | Product):
            tensors |= {f"{name}.{part}": tensor for part, tensor in module.tensors().items()}
    for name, stored in rest.items():
        tensors |= {f"{name}{part}": tensor for part, tensor in stored.tensors().items()}
    return tensors


def _as_stored(tensor: Tensor) -> Tensor:
    """A vector in half precision, where that says the same; anything else as it is."""
    # A model may have been moved to another type; what is stored says the same in float32.
    tensor = tensor.float()
    if form_of(tuple(tensor.shape)) != "half":
        return tensor
    half = tensor.half()
    return half if torch.equal(half.float(), tensor) else tensor


def dequantized(model: PreTrainedModel) -> PreTrainedModel:
    """The model with float weights, each on its grid, and activations left alone; in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLayer):
            model.set_submodule(name, _float_layer(module))
        elif isinstance(module, ActivationQuantizer) and isinstance(
            model.get_submodule(name.rpartition(".")[0]), Product
        ):
            model.set_submodule(name, nn.Identity())
    return model


def _float_layer(layer: PackedLayer) -> nn.Linear | nn.Conv2d:
    out, width, *kernel = layer.shape
    made: nn.Linear | nn.Conv2d
    if isinstance(layer, PackedConv2d):
        made = nn.Conv2d(
            width * layer.groups,
            out,
            (kernel[0], kernel[1]),
            groups=layer.groups,
            bias=layer.bias is not None,
            device="meta",
        )
        made.stride, made.padding, made.dilation = layer.stride, layer.padding, layer.dilation
    else:
        made = nn.Linear(width, out, bias=layer.bias is not None, device="meta")
    made.weight = nn.Parameter(layer.stored.dequantize(), requires_grad=False)
    made.register_parameter("bias", layer.bias)
    return made
