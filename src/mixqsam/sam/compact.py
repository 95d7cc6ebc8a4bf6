"""Store what belongs to no unit small: see `mixqsam.sam.rest`."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.weights import QuantizedTensor
from mixqsam.sam.load import Sam
from mixqsam.sam.rest import BITS, form_of, rest_of, rows_of


def compacted(sam: Sam) -> Sam:
    """The same model with every tensor of the rest as the file will hold it.

    The model's parameters are replaced, not written to: another model that shares them is not changed.
    """
    units = {unit.name for unit in sam.costs().units}
    rest: dict[str, QuantizedTensor] = {}
    for name, parameter in list(rest_of(sam.model, units)):
        form = form_of(tuple(parameter.shape))
        if form == "rows":
            rest[name] = _on_rows(parameter)
            set_parameter(sam.model, name, rest[name].dequantize())
        elif form == "half" and bool(torch.isfinite(parameter.half()).all()):
            set_parameter(sam.model, name, parameter.half().float())
    return replace(sam, rest=rest)


def set_parameter(model: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor, frozen, in the place of a parameter."""
    owner, _, leaf = name.rpartition(".")
    parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)
    model.get_submodule(owner).register_parameter(leaf, parameter)


def dishonest(model: nn.Module, rest: Mapping[str, QuantizedTensor]) -> str | None:
    """The name of a tensor that is not what its stored codes say, if there is one."""
    for name, stored in rest.items():
        parameter = model.get_parameter(name).cpu()
        # A model that was moved to another type has the same tensor, rounded.
        if not torch.equal(parameter, stored.dequantize().cpu().to(parameter.dtype)):
            return name
    return None


def _on_rows(tensor: Tensor) -> QuantizedTensor:
    rows = tensor.detach().float().reshape(rows_of(tuple(tensor.shape)), -1)
    grid = AffineGrid.spanning(rows.amin(1, keepdim=True), rows.amax(1, keepdim=True), bits=BITS)
    return QuantizedTensor(grid.encode(rows), grid, tuple(tensor.shape))
