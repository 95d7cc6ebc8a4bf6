"""What belongs to no unit: float in the arithmetic, small in the file.

Embeddings and the weights of the heads are stored at 8 bits on an affine grid for each row, vectors (biases, norms) in
half precision, and what is too small to matter as it is. The published methods leave all of it in float32, which for
SAM-B at 4 bits is 30% of the file.
"""

from collections.abc import Iterator
from math import prod
from typing import Literal

from torch import nn

Form = Literal["rows", "half", "float"]

BITS = 8
# Below this many elements a matrix stays as it is; the Fourier features of positions are among these, which rounding
# would hurt most.
_LEAST = 4096


def form_of(shape: tuple[int, ...]) -> Form:
    """How a tensor of such a shape is stored."""
    if len(shape) == 1:
        return "half"
    return "rows" if prod(shape) >= _LEAST else "float"


def rows_of(shape: tuple[int, ...]) -> int:
    """How many rows have a grid of their own: the first axis, or all but the last where the first is 1."""
    return shape[0] if shape[0] > 1 else prod(shape[:-1])


def stored_bytes(shape: tuple[int, ...]) -> int:
    """Bytes that a tensor takes in the file, its grids (bfloat16 scale, uint8 zero point) included."""
    form, count = form_of(shape), prod(shape)
    return {"rows": count + 3 * rows_of(shape) if form == "rows" else 0, "half": 2 * count, "float": 4 * count}[form]


def rest_of(model: nn.Module, units: set[str]) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are no unit's weight, by name."""
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if leaf != "weight" or owner not in units:
            yield name, parameter
