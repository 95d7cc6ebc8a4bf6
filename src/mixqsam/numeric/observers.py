"""What is remembered of an activation tensor, and how a range is chosen from it.

One streaming pass fills a `Statistics` per tensor; its memory does not grow with the data. Every observer and
every bit-width then reads its range from the same statistics.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mixqsam.errors import NumericError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.search import search_one

Range = tuple[float, float]

_BINS = 8192
# Histograms of larger tensors are filled from a regular sample; extremes are always exact.
_SAMPLE = 1 << 20
# Of an end of a range, when it is searched alone; the middle one, and every sixth from there, is looked at first.
_FACTORS = 37
_PERCENTILES = (0.9, 0.99, 0.999, 0.9999, 0.99999, 1.0)


class Distribution(Protocol):
    """What observers read of a stream of values.

    Attributes:
        low, high: its extremes.
        search_steps: candidates when both ends of a range are shrunk together.
        search_rounds: how often each end alone is searched after that.
    """

    low: float
    high: float
    search_steps: int
    search_rounds: int

    def mean_extremes(self) -> Range:
        """The means of the lows and of the highs of all tensors that were taken in."""
        ...

    def points(self) -> tuple[Tensor, Tensor]:
        """Centres and shares (summing to 1) of the occupied bins, ascending."""
        ...


class Statistics:
    """Extremes (exact) and a histogram (over a symmetric range that doubles when it must) of a stream.

    What is remembered does not depend on the order of the tensors, but for `base`, so that parts of a stream may be
    remembered apart and merged.

    Args:
        base: the histogram's range is this times a power of two; None for the first tensor's largest value.
    """

    search_steps = 100
    search_rounds = 2

    def __init__(self, base: float | None = None) -> None:
        self.low = float("inf")
        self.high = float("-inf")
        self.base = base
        self._lows: list[float] = []
        self._highs: list[float] = []
        self._reach = base or 0.0
        self._counts = torch.zeros(_BINS, dtype=torch.float64)

    def update(self, values: Tensor, *, name: str) -> None:
        """Take in a tensor of any shape; `name` says whose it is in the error.

        Raises:
            NumericError: it holds NaN or infinity.
        """
        low, high = (float(v) for v in values.aminmax())
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise NumericError(
                f"The input of {name} holds NaN or infinity; the checkpoint or an image is damaged, "
                "or the model overflows in this precision."
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._lows.append(low)
        self._highs.append(high)
        largest = max(abs(low), abs(high))
        if self.base is None:
            self.base = self._reach = largest or 1.0
        reach = self.base
        while reach < largest:
            reach *= 2
        self._grow(reach)
        flat = values.detach().reshape(-1)
        # An odd step does not fall into step with channel counts, which are even.
        step = flat.numel() // _SAMPLE | 1
        counts = torch.histc(flat[::step].float(), bins=_BINS, min=-reach, max=reach).double().cpu() * step
        self._counts += _widened(counts, reach, self._reach)

    @property
    def seen(self) -> bool:
        """Whether anything was taken in."""
        return bool(self._lows)

    def rebase(self, base: float) -> None:
        """Choose the base, before anything was taken in."""
        self.base = self._reach = base

    def merge(self, other: "Statistics") -> None:
        """Take in what another one remembers; both have the same base.

        Raises:
            ValueError: they have not.
        """
        if self.base is None or self.base != other.base:
            raise ValueError(f"statistics over {self.base} and {other.base} cannot be merged")
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._lows += other._lows
        self._highs += other._highs
        self._grow(other._reach)
        self._counts += _widened(other._counts, other._reach, self._reach)

    def _grow(self, reach: float) -> None:
        if reach > self._reach:
            self._counts, self._reach = _widened(self._counts, self._reach, reach), reach

    def mean_extremes(self) -> Range:
        """The means of the lows and of the highs of all tensors that were taken in."""
        # An exactly rounded sum does not depend on the order.
        return math.fsum(self._lows) / len(self._lows), math.fsum(self._highs) / len(self._highs)

    def points(self) -> tuple[Tensor, Tensor]:
        """Centres and shares (summing to 1) of the occupied bins, ascending."""
        width = 2 * self._reach / _BINS
        centres = -self._reach + width * (torch.arange(_BINS, dtype=torch.float64) + 0.5)
        occupied = self._counts > 0
        counts = self._counts[occupied]
        return centres[occupied].clamp(self.low, self.high).float(), (counts / counts.sum()).float()


def _widened(counts: Tensor, reach: float, wanted: float) -> Tensor:
    """Counts over ±reach as counts over ±wanted, which is reach times a power of two."""
    while reach < wanted:
        merged = counts.reshape(-1, 2).sum(1)
        counts = torch.zeros(_BINS, dtype=torch.float64)
        counts[_BINS // 4 : _BINS // 4 * 3] = merged
        reach *= 2
    return counts


def minmax(statistics: Distribution, *, bits: int) -> Range:
    """The smallest and largest value seen, at any bit-width."""
    del bits
    return statistics.low, statistics.high


def avgminmax(statistics: Distribution, *, bits: int) -> Range:
    """The mean over images of each image's smallest and largest value, at any bit-width."""
    del bits
    return statistics.mean_extremes()


def percentile(statistics: Distribution, *, bits: int) -> Range:
    """The pair of symmetric quantiles, of a small grid, with the least squared error."""
    centres, shares = statistics.points()
    cumulative = shares.double().cumsum(0)
    lows, highs = [], []
    for q in _PERCENTILES:
        if q == 1.0:
            lows.append(statistics.low)
            highs.append(statistics.high)
            continue
        lows.append(float(centres[int((cumulative < 1 - q).sum().clamp(max=len(centres) - 1))]))
        highs.append(float(centres[int((cumulative < q).sum().clamp(max=len(centres) - 1))]))
    candidates = torch.tensor(lows), torch.tensor(highs)
    best = int(_errors(centres, shares, *candidates, bits=bits).argmin())
    return lows[best], highs[best]


def omse(statistics: Distribution, *, bits: int, power: float = 2.0) -> Range:
    """The range with the least mean |x̂ − x|^power, found by shrinking both ends, then each end alone."""
    centres, shares = statistics.points()
    # A grid holds zero whatever was seen.
    least, most = min(statistics.low, 0.0), max(statistics.high, 0.0)
    low, high = torch.tensor(least), torch.tensor(most)
    count = statistics.search_steps
    shrink = torch.linspace(1 / count, 1, count)
    score = partial(_errors, centres, shares, bits=bits, power=power)
    best = _search(score, low * shrink, high * shrink)
    factors = torch.linspace(0.5, 1.5, _FACTORS)
    for _ in range(statistics.search_rounds):
        highs = (best[1] * factors).clamp(max=most)
        best = _search(score, torch.full_like(highs, best[0]), highs)
        lows = (best[0] * factors).clamp(min=least)
        best = _search(score, lows, torch.full_like(lows, best[1]))
    return best


def _search(score: Callable[[Tensor, Tensor], Tensor], lows: Tensor, highs: Tensor) -> Range:
    """The candidate range with the least error."""
    best = search_one(lambda index: score(lows[index], highs[index]), count=len(lows))
    return float(lows[best]), float(highs[best])


def _errors(centres: Tensor, shares: Tensor, lows: Tensor, highs: Tensor, *, bits: int, power: float = 2.0) -> Tensor:
    """The mean |error|^power on the histogram of each candidate range's grid."""
    grid = AffineGrid.from_range(lows[:, None], highs[:, None], bits=bits)
    difference = grid.project(centres[None]) - centres
    return (difference.square_() if power == 2.0 else difference.abs_().pow_(power)).mul_(shares).sum(1)


OBSERVERS: dict[str, Callable[..., Range]] = {
    "minmax": minmax,
    "avgminmax": avgminmax,
    "percentile": percentile,
    "omse": omse,
    # The norm of PTQ4SAM's released code.
    "omse-2.4": partial(omse, power=2.4),
}
