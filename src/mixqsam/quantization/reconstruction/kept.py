"""Finished pieces of a reconstruction: one file each, so that a killed run goes on after the last of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import nn

from mixqsam.errors import ArtifactError, shortened
from mixqsam.files import write_bytes
from mixqsam.numeric.modules import Product, QuantizedLayer
from mixqsam.numeric.tensor_file import TensorFile, kinds_of
from mixqsam.plan import BitPlan
from mixqsam.quantization.reconstruction.fit import Log
from mixqsam.sam.attach import attach_stored
from mixqsam.sam.load import Sam

if TYPE_CHECKING:
    from torch import Tensor


def keep(path: Path, draft: Sam, units: Sequence[str], logs: Sequence[Log]) -> None:
    """Write the quantized units of a draft, and how their fitting went.

    Raises:
        OutputError: the disk is full, or the place cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    kinds: dict[str, dict[str, str]] = {}
    for name in units:
        module = draft.model.get_submodule(name)
        assert isinstance(module, QuantizedLayer | Product)  # noqa: S101  (a fitted unit is nothing else)
        tensors |= {f"{name}.{part}": tensor for part, tensor in module.tensors().items()}
        if isinstance(module, QuantizedLayer) and module.bias is not None:
            tensors[f"{name}.bias"] = module.bias.detach().cpu()
        kinds[name] = kinds_of(module.quantizers)
    metadata = {"kinds": json.dumps(kinds), "logs": json.dumps([asdict(log) for log in logs])}
    write_bytes(path, save(tensors, metadata=metadata))


def restore(path: Path, draft: Sam, units: Sequence[str], plan: BitPlan) -> list[Log]:
    """Attach the units of a finished piece to a draft.

    Raises:
        ArtifactError: the file cannot be read; some units may be attached already.
    """
    try:
        with TensorFile(path) as file:
            kinds, logs = json.loads(file.metadata["kinds"]), json.loads(file.metadata["logs"])
            for name in units:
                attach_stored(draft.model, name, bits=plan.bits[name], kinds=kinds[name], tensors=file)
                _restore_bias(draft.model.get_submodule(name), f"{name}.bias", file)
        return [Log(**log) for log in logs]
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"{path} is not a finished piece of a reconstruction ({shortened(repr(error))})."
        ) from error


def _restore_bias(module: nn.Module, name: str, file: TensorFile) -> None:
    """Take the bias of a finished piece; pieces that were kept before biases moved have none."""
    if isinstance(module, QuantizedLayer) and module.bias is not None and file.holds(name):
        bias = file.take(name, shape=tuple(module.bias.shape), dtype=torch.float32)
        module.bias = nn.Parameter(bias.to(module.bias.device), requires_grad=False)
