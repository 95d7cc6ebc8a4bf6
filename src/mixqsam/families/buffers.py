"""Buffers that no file holds: a model that was made on the meta device computes them again."""

import torch
from transformers import PreTrainedModel


def fill_buffers(model: PreTrainedModel) -> None:
    """Compute the buffers that are not stored and have no values yet, as transformers does; in place.

    Each module belongs to the innermost model of transformers around it, which knows how its buffers begin.
    """
    for name, module in model.named_modules():
        empty = [key for key, tensor in module._buffers.items() if tensor is not None and tensor.is_meta]
        if not empty:
            continue
        for key in empty:
            module._buffers[key] = torch.empty_like(module.get_buffer(key), device="cpu")
        _owner(model, name)._init_weights(module)


def _owner(model: PreTrainedModel, name: str) -> PreTrainedModel:
    parts = name.split(".")
    around = (model.get_submodule(".".join(parts[:count])) for count in range(len(parts), -1, -1))
    return next(module for module in around if isinstance(module, PreTrainedModel))
