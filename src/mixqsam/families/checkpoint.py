"""Checkpoints of PyTorch in the layouts of other projects: read safely, and held against the model that they fill."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mixqsam.errors import ModelError

# Where training code puts the weights, beside its optimizer and counters.
_ENTRIES = ("model", "state_dict", "model_state", "model_state_dict")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote, or those of the one entry that holds a model's weights.

    Raises:
        ModelError: it cannot be read, or holds no state dict.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises whatever its unpickler or zip reader met; all of it means that the file cannot be read.
        # Its own words are left out: for a file with code in it, they advise to run the code.
        raise ModelError(
            f"{path} cannot be read as a PyTorch checkpoint: it is cut, damaged, or holds more than tensors "
            f"({type(error).__name__}). Download it again, or save its state dict alone."
        ) from error
    for candidate in (content, *(content.get(entry) for entry in _ENTRIES)) if isinstance(content, dict) else ():
        if isinstance(candidate, dict) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return {str(name): tensor for name, tensor in candidate.items()}
    raise ModelError(f"{path} is no state dict of tensors; expected a checkpoint such as Meta's `sam_vit_*.pth`.")


def fill_model(model: PreTrainedModel, tensors: Mapping[str, Tensor], path: Path, *, kind: str = "SAM") -> None:
    """Put tensors, as float32, in the places of a model's on the meta device; `kind` names the model in errors.

    Raises:
        ModelError: a tensor is missing, foreign or of another shape.
    """
    expected: Mapping[str, Any] = model.state_dict()
    missing, foreign = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing:
        raise ModelError(
            f"{path} is cut or is not a {kind}: {len(missing)} tensors are missing ({', '.join(missing[:3])})."
        )
    if foreign:
        raise ModelError(
            f"{path} is another variant of {kind}: {len(foreign)} foreign tensors ({', '.join(foreign[:3])})."
        )
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise ModelError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}.")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    model.tie_weights()
