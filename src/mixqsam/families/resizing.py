"""Smaller frames: a float model that sees images of fewer pixels, with its positions interpolated."""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mixqsam.errors import InputError, ModelError
from mixqsam.families import FAMILIES, family_of
from mixqsam.families.buffers import fill_buffers
from mixqsam.families.family import Family, Resizing

# Fields of image processors that say a size.
_SIZES = ("size", "pad_size", "mask_size", "mask_pad_size")


def resize_model(model: PreTrainedModel, side: int, *, source: str) -> PreTrainedModel:
    """Make a float model see frames of another size; one that has the size already is returned as it is.

    Args:
        model: as it was loaded, on the CPU, before the engine's modules are put in place.
        side: of the frame, in pixels.
        source: the model's name, for errors.

    Returns:
        A model like one that was loaded from a checkpoint of this size. It shares the tensors that do not change.

    Raises:
        InputError: the side does not fit the model; the message names the nearest ones that do.
        ModelError: models of the family keep their size.
    """
    family = family_of(model.config)
    resizing = _find_resizing(family, source)
    own = family.framing.image_size(model.config)
    if side == own:
        return model
    _check_side(side, own=own, multiple=resizing.multiple(model.config), source=source)
    values = model.config.to_dict()
    resizing.configure(values, side)
    family.check(values)
    with torch.device("meta"):
        resized = family.model._from_config(family.config.from_dict(values), attn_implementation="eager")
    resized.load_state_dict(_fit_state(model, resized, resizing), assign=True)
    resized.tie_weights()
    fill_buffers(resized)
    return resized.eval()


def resize_processor(processor: Any, model: PreTrainedModel, resized: PreTrainedModel, *, source: str) -> Any:
    """Make the image processor of a model fit its smaller form; statistics and filter stay.

    Args:
        processor: the model's own.
        model: as it was loaded.
        resized: what `resize_model` made of it.
        source: the model's name, for errors.

    Raises:
        ModelError: the processor does not use the whole frame, so a size for another frame would be a guess.
    """
    framing = family_of(model.config).framing
    usual, fitting = framing.default(model.config), framing.default(resized.config)
    if dict(processor.size) != dict(usual.size):
        raise ModelError(
            f"{source}: its image processor scales images to {dict(processor.size)!r:.80}, where its frame is "
            f"{dict(usual.size)!r:.80}. Only models that use the whole frame take another image size."
        )
    made = copy.deepcopy(processor)
    for name in _SIZES:
        if hasattr(fitting, name):
            setattr(made, name, getattr(fitting, name))
    return made


def _find_resizing(family: Family, source: str) -> Resizing:
    if family.resizing is None:
        able = ", ".join(repr(name) for name, other in FAMILIES.items() if other.resizing is not None)
        raise ModelError(
            f"{source} is a {family.name!r} model, which keeps its image size; another one is there for {able}."
        )
    return family.resizing


def _check_side(side: int, *, own: int, multiple: int, source: str) -> None:
    if side > own:
        raise InputError(
            f"{source}: the image size {side} is larger than the checkpoint's, {own} pixels; smaller ones are possible."
        )
    if side < multiple or side % multiple:
        below, above = side // multiple * multiple, (side // multiple + 1) * multiple
        nearest = " and ".join(str(value) for value in (below, above) if 0 < value <= own)
        raise InputError(
            f"{source}: the image size {side} is not a multiple of {multiple}, which this model needs; the nearest "
            f"are {nearest}."
        )


def _fit_state(model: PreTrainedModel, resized: PreTrainedModel, resizing: Resizing) -> dict[str, Tensor]:
    """The tensors of a model in the shapes of the resized one."""
    shapes = {name: tensor.shape for name, tensor in resized.state_dict().items()}
    return {
        name: tensor if tensor.shape == shapes[name] else resizing.fit(tensor, tuple(shapes[name]))
        for name, tensor in model.state_dict().items()
    }
