"""Choose how one weight is rounded, by its output's error on inputs that were kept aside."""

from collections.abc import Iterator, Sequence
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
        Rounded to nearest, and in the best way (which may be the same).

    Raises:
        NumericError: the moments are not finite.
    """
    judge = _Judge(layer, fit, aside)
    nearest = judge(quantize_weight(layer.weight, layer.grid), "nearest", 0.0, shifts=False)
    moments = fit.means(centred=layer.has_bias and method.biases)
    tried = [] if method.forced else [nearest]
    tried += _candidates(layer, moments, method, judge)
    return nearest, min(tried, key=lambda rounded: rounded.error)


def refit(layer: Layer, best: Rounded, moments: Moments, method: Compensation) -> Rounded:
    """The same way on all inputs, once it was chosen; its errors stay those that it was chosen by.

    Args:
        layer: the weight.
        best: what was chosen.
        moments: of the inputs that it was fitted to and of those that were kept aside.
        method: what was tried.
    """
    if best.way == "nearest" and best.shift is None:
        return best
    means = moments.means(centred=layer.has_bias and method.biases)
    moved = layer.rows
    if best.way in {"ridge", "ridge-gptq"}:
        moved = moved + ridge(moved, means, damping=best.damping)
    again = best.weight.grid is not layer.grid
    *_, grid = _grids(layer, moved, means, weighted=again)
    if best.way in {"gptq", "ridge-gptq"}:
        attempt = _Attempt(moved, grid, is_ridge=best.way == "ridge-gptq")
        (weight,) = _gptq(layer, [attempt], means, damping=best.damping, method=method)
    else:
        weight = quantize_weight(moved.reshape(layer.weight.shape), grid)
    shift = None
    if best.shift is not None:
        deployed = weight.dequantize().double().reshape(moved.shape)
        shift = mean_error(layer.rows, deployed, moments.means(centred=False)).float()
    return replace(best, weight=weight, shift=shift)


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


@dataclass(frozen=True)
class _Attempt:
    """A weight that is to be rounded, and on which grid.

    Attributes:
        moved: the weight, [groups, rows, d].
        grid: of its rows.
        is_ridge: whether ridge moved it.
    """

    moved: Tensor
    grid: AffineGrid
    is_ridge: bool

    def way(self, *, is_gptq: bool) -> Way:
        if self.is_ridge:
            return "ridge-gptq" if is_gptq else "ridge"
        return "gptq" if is_gptq else "nearest"


def _candidates(layer: Layer, moments: MeanMoments, method: Compensation, judge: _Judge) -> Iterator[Rounded]:
    """All ways that the method tries: the float weight and moved ones, on each grid, rounded to nearest and by GPTQ."""
    plain = list(_attempts(layer, layer.rows, moments, method, is_ridge=False))
    for attempt in plain:
        yield from _nearest(layer, attempt, 0.0, method, judge)
    for damping in method.dampings:
        attempts = plain if "gptq" in method.ways else []
        if {"ridge", "ridge-gptq"} & set(method.ways):
            moved = layer.rows + ridge(layer.rows, moments, damping=damping)
            ridged = list(_attempts(layer, moved, moments, method, is_ridge=True))
            for attempt in ridged:
                yield from _nearest(layer, attempt, damping, method, judge)
            attempts = attempts + (ridged if "ridge-gptq" in method.ways else [])
        for attempt, weight in zip(
            attempts, _gptq(layer, attempts, moments, damping=damping, method=method), strict=True
        ):
            yield judge(weight, attempt.way(is_gptq=True), damping, shifts=method.biases)


def _attempts(
    layer: Layer, moved: Tensor, moments: MeanMoments, method: Compensation, *, is_ridge: bool
) -> Iterator[_Attempt]:
    for grid in _grids(layer, moved, moments, weighted=method.weighted_grids):
        yield _Attempt(moved, grid, is_ridge)


def _nearest(layer: Layer, attempt: _Attempt, damping: float, method: Compensation, judge: _Judge) -> Iterator[Rounded]:
    way = attempt.way(is_gptq=False)
    if way in method.ways:
        weight = quantize_weight(attempt.moved.reshape(layer.weight.shape), attempt.grid)
        yield judge(weight, way, damping, shifts=method.biases)


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


def _gptq(
    layer: Layer, attempts: Sequence[_Attempt], moments: MeanMoments, *, damping: float, method: Compensation
) -> list[QuantizedTensor]:
    """Round several weights of one layer by GPTQ, together: they have the same input."""
    if not attempts:
        return []
    groups, rows, width = layer.rows.shape
    count, bits = len(attempts), attempts[0].grid.bits

    def together(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([one.reshape(groups, rows, -1) for one in values], dim=1).reshape(groups * count * rows, -1)

    moved = together([one.moved for one in attempts]).reshape(groups, count * rows, width)
    scale, zero = (together([getattr(one.grid, name) for one in attempts]) for name in ("scale", "zero"))
    grid = AffineGrid(bits, scale, zero)
    codes = gptq(moved, moments.hessian, grid, damping=damping, ordered=method.ordered)
    if method.passes:
        codes = settle(moved, moments.hessian, grid, codes, damping=damping, passes=method.passes)
    apart = codes.reshape(groups, count, rows, width).unbind(1)
    shape = tuple(layer.weight.shape)
    return [
        QuantizedTensor(one.reshape(groups * rows, width).contiguous(), attempt.grid, shape)
        for one, attempt in zip(apart, attempts, strict=True)
    ]
