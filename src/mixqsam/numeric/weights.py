"""Weights on affine grids, one grid per output channel."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mixqsam.errors import NumericError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.packing import pack, unpack
from mixqsam.numeric.search import search_rows

# Factors of the extremes that are tried; where errors are weighted, a search is one of many and is coarser.
_FACTORS, _COARSE = torch.linspace(0.01, 1, 100), torch.linspace(0.3, 1, 36)
# Rows are searched in pieces of this many elements, so that a piece stays in the cache.
_PIECE = 1 << 19
# Elements of all candidates that are computed at once: larger pieces leave the processor's cache.
_TOGETHER = 1 << 18


@dataclass(frozen=True)
class QuantizedTensor:
    """A weight as whole numbers.

    Attributes:
        codes: uint8, shape [rows, elements per row]; the rows of a weight are its output channels, its first axis.
        grid: scale and zero point, each of shape [rows, 1].
        shape: the weight's own shape.
    """

    codes: Tensor
    grid: AffineGrid
    shape: tuple[int, ...]

    @property
    def bits(self) -> int:
        """Bit-width of the codes."""
        return self.grid.bits

    @property
    def scale(self) -> Tensor:
        """Step of each row, [rows, 1]."""
        return self.grid.scale

    def dequantize(self) -> Tensor:
        """The float32 weight, in its own shape; every element lies exactly on the grid."""
        return self.grid.decode(self.codes).reshape(self.shape)

    def whole(self) -> Tensor:
        """The weight in steps: codes less zero points, float32, in its own shape."""
        return (self.codes.float() - self.grid.zero).reshape(self.shape)

    def packed(self) -> Tensor:
        """The codes as a bit stream (one-dimensional uint8)."""
        return pack(self.codes, bits=self.grid.bits)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored of it, by the ending of the name: packed codes, scales, zero points."""
        return {
            "": self.packed(),
            "_scale": stored_scale(self.grid.scale.reshape(-1).float().cpu().contiguous()),
            "_zero": self.grid.zero.reshape(-1).to(torch.uint8).cpu(),
        }

    @classmethod
    def from_packed(cls, packed: Tensor, *, grid: AffineGrid, shape: tuple[int, ...]) -> "QuantizedTensor":
        """The inverse of `packed`.

        Raises:
            ArtifactError: the lengths do not fit.
        """
        codes = unpack(packed, bits=grid.bits, count=int(torch.Size(shape).numel()))
        return cls(codes.to(grid.scale.device).reshape(len(grid.scale), -1), grid, shape)


def stored_scale(scale: Tensor) -> Tensor:
    """Scales as bfloat16, where that says the same."""
    short = scale.bfloat16()
    return short if torch.equal(short.float(), scale) else scale


def weight_grid(weight: Tensor, *, bits: int, observer: str, name: str, importance: Tensor | None = None) -> AffineGrid:
    """Choose per-channel grids for a weight.

    Args:
        weight: shape [channels, …].
        bits: 2 to 8.
        observer: `minmax` and `avgminmax` take each channel's extremes; the others search, per channel, the
            shrink factor of the extremes (of 100; of 36 with `importance`) with the least squared error.
        name: whose weight it is, for the error.
        importance: factor of each squared error, [1 or channels, elements of a channel]; all the same if not given.

    Returns:
        A grid with scale and zero point of shape [channels, 1].

    Raises:
        NumericError: the weight holds NaN or infinity.
    """
    rows = _rows(weight)
    if not torch.isfinite(rows).all():
        raise NumericError(f"The weight of {name} holds NaN or infinity; the checkpoint is damaged.")
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    if observer not in {"minmax", "avgminmax"}:
        shrink = _best_shrink(rows, low, high, bits=bits, importance=importance)
        low, high = low * shrink, high * shrink
    return AffineGrid.spanning(low, high, bits=bits, signed=True)


def quantize_weight(weight: Tensor, grid: AffineGrid) -> QuantizedTensor:
    """Round a weight [channels, …] to the nearest points of its channels' grids."""
    return QuantizedTensor(grid.encode(_rows(weight)), grid, tuple(weight.shape))


def project_weight(weight: Tensor, grid: AffineGrid) -> Tensor:
    """The weight that `quantize_weight(…).dequantize()` would give, without keeping its codes."""
    return grid.project(_rows(weight)).reshape(weight.shape)


def _rows(weight: Tensor) -> Tensor:
    return weight.detach().float().reshape(weight.shape[0], -1)


def _best_shrink(rows: Tensor, low: Tensor, high: Tensor, *, bits: int, importance: Tensor | None) -> Tensor:
    factors = _FACTORS if importance is None else _COARSE
    best = torch.ones_like(low)
    weights = None if importance is None else importance.to(rows).expand_as(rows)
    step = max(1, _PIECE // rows.shape[1])
    together = max(1, _TOGETHER // rows[:step].numel())
    for start in range(0, rows.shape[0], step):
        piece = slice(start, start + step)
        taken = None if weights is None else weights[piece]
        errors = partial(_shrunk_errors, rows[piece], low[piece], high[piece], factors, bits=bits, importance=taken)
        best[piece] = factors.to(low)[
            search_rows(errors, count=len(factors), rows=len(rows[piece]), together=together)
        ][:, None]
    return best


def _shrunk_errors(
    rows: Tensor, low: Tensor, high: Tensor, factors: Tensor, index: Tensor, *, bits: int, importance: Tensor | None
) -> Tensor:
    """The squared errors [n, rows] where each row's range is shrunk by the factors that `index` [n, rows] names."""
    shrink = factors.to(rows.device)[index][..., None]
    grid = AffineGrid.spanning(low * shrink, high * shrink, bits=bits, signed=True)
    squares = (grid.project(rows) - rows).square_()
    return (squares if importance is None else squares.mul_(importance)).sum(2)
