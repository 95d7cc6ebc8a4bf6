"""Choose how one weight is rounded, by its output's error on inputs that were kept aside."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.compensation import OutputErrors, gptq, mean_error, ridge, settle
from mixqsam.numeric.moments import MeanMoments, Moments
from mixqsam.numeric.weights import QuantizedTensor, quantize_weight, weight_grid
from mixqsam.quantization.compensation.method import Compensation, Way


@dataclass(frozen=True)
class Layer:
    """One weight, and what it is rounded on.

    Attributes:
        name: its unit's.
        weight: float, [channels, …].
        groups: of a convolution; 1 for a linear.
        grid: the observer's, of the float weight.
        observer: that searches the grids of moved weights.
        has_bias: a bias is there to take up the mean error.
    """

    name: str
    weight: Tensor
    groups: int
    grid: AffineGrid
    observer: str
    has_bias: bool

    @property
    def rows(self) -> Tensor:
        """The weight as [groups, channels of a group, d]."""
        return self.weight.detach().double().reshape(self.groups, self.weight.shape[0] // self.groups, -1)


@dataclass(frozen=True)
class Rounded:
    """A weight as it would be deployed.

    Attributes:
        weight: codes and grid.
        shift: what is added to the bias, float32 [channels]; None for nothing.
        way: how it was made.
        damping: λ that was used; 0 where none was.
        errors: squared error of each channel's output on the inputs that were kept aside, [channels].
    """

    weight: QuantizedTensor
    shift: Tensor | None
    way: Way
    damping: float
    errors: Tensor

    @property
    def error(self) -> float:
        """Of the whole output: summed over channels."""
        return float(self.errors.sum())


def choose(layer: Layer, fit: Moments, aside: Moments, method: Compensation) -> tuple[Rounded, Rounded]:
    """Round a weight to nearest, and in the way with the least error.

    Args:
        layer: the weight.
        fit: moments of the inputs that it is fitted to.
        aside: moments of other inputs, on which the ways are compared.
        method: what is tried.

    Returns:
        Rounded to nearest, and the best (which may be the same).

    Raises:
        NumericError: the moments are not finite.
    """
    judge = _Judge(layer, fit, aside)
    nearest = judge(quantize_weight(layer.weight, layer.grid), "nearest", 0.0, shifts=False)
    best = replace(nearest, errors=torch.full_like(nearest.errors, torch.inf)) if method.forced else nearest
    moments = fit.means(centred=layer.has_bias and method.biases)
    for one in _candidates(layer, moments, method, judge):
        best = _best_channels(best, one) if method.by_channel else min(best, one, key=lambda rounded: rounded.error)
    return nearest, best


class _Judge:
    """Gives rounded weights their shift of the bias, and their errors on inputs that were kept aside."""

    def __init__(self, layer: Layer, fit: Moments, aside: Moments) -> None:
        self._layer = layer
        self._fit = fit.means(centred=False)
        self._errors = OutputErrors(layer.rows, aside.means(centred=False))

    def __call__(self, weight: QuantizedTensor, way: Way, damping: float, *, shifts: bool) -> Rounded:
        exact = self._layer.rows
        deployed = weight.dequantize().double().reshape(exact.shape)
        if not (shifts and self._layer.has_bias):
            return Rounded(weight, None, way, damping, self._errors(deployed))
        shift = mean_error(exact, deployed, self._fit)
        return Rounded(weight, shift.float(), way, damping, self._errors(deployed, shift=shift))


def _candidates(layer: Layer, moments: MeanMoments, method: Compensation, judge: _Judge) -> Iterator[Rounded]:
    """All ways that the method tries: the float weight and moved ones, on each grid, rounded to nearest and by GPTQ."""
    for way, damping, moved in _moved(layer, moments, method):
        rounded: Way = "gptq" if way == "nearest" else "ridge-gptq"
        for grid in _grids(layer, moved, moments, weighted=method.weighted_grids):
            if way in method.ways:
                nearest = quantize_weight(moved.reshape(layer.weight.shape), grid)
                yield judge(nearest, way, damping, shifts=method.biases)
            if rounded in method.ways:
                for strength in (damping,) if damping else method.dampings:
                    codes = _gptq(moved, moments, grid, damping=strength, method=method)
                    weight = QuantizedTensor(codes, grid, tuple(layer.weight.shape))
                    yield judge(weight, rounded, strength, shifts=method.biases)


def _moved(layer: Layer, moments: MeanMoments, method: Compensation) -> Iterator[tuple[Way, float, Tensor]]:
    """The float weight, and moved ones; how, with which λ, and the weight."""
    exact = layer.rows
    if {"nearest", "gptq"} & set(method.ways):
        yield "nearest", 0.0, exact
    if {"ridge", "ridge-gptq"} & set(method.ways):
        for damping in method.dampings:
            yield "ridge", damping, exact + ridge(exact, moments, damping=damping)


def _grids(layer: Layer, moved: Tensor, moments: MeanMoments, *, weighted: bool) -> Iterator[AffineGrid]:
    """The observer's grid of the float weight, and one that is searched again."""
    yield layer.grid
    if weighted:
        squares = moments.hessian.diagonal(dim1=-2, dim2=-1)[:, None].expand_as(moved)
        yield weight_grid(
            moved.reshape(layer.weight.shape).float(),
            bits=layer.grid.bits,
            observer=layer.observer,
            name=layer.name,
            importance=squares.reshape(layer.weight.shape[0], -1),
        )


def _gptq(moved: Tensor, moments: MeanMoments, grid: AffineGrid, *, damping: float, method: Compensation) -> Tensor:
    codes = gptq(moved, moments.hessian, grid, damping=damping, ordered=method.ordered)
    if method.passes:
        codes = settle(moved, moments.hessian, grid, codes, damping=damping, passes=method.passes)
    return codes


def _best_channels(first: Rounded, second: Rounded) -> Rounded:
    """Each channel from the one whose error is less there; called what most of the gain comes from."""
    better = second.errors < first.errors
    if not bool(better.any()):
        return first
    a, b = first.weight, second.weight
    pick = better[:, None]
    grid = replace(
        a.grid,
        scale=torch.where(pick, b.grid.scale, a.grid.scale),
        zero=torch.where(pick, b.grid.zero, a.grid.zero),
    )
    shift = None
    if first.shift is not None or second.shift is not None:
        nothing = torch.zeros(len(better), device=better.device)
        one, two = (nothing if r.shift is None else r.shift for r in (first, second))
        shift = torch.where(better, two, one)
    leading = second if 2 * int(better.sum()) > len(better) else first
    return Rounded(
        QuantizedTensor(torch.where(pick, b.codes, a.codes), grid, a.shape),
        shift,
        leading.way,
        leading.damping,
        torch.where(better, second.errors, first.errors),
    )
