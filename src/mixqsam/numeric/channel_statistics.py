"""What is remembered of each channel of maps, so that every channel gets a range of its own."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mixqsam.errors import NumericError
from mixqsam.numeric.observers import Range

_BINS = 2048
# Values of one tensor that a channel's histogram is filled from; extremes are always exact.
_SAMPLE = 1 << 14


@dataclass(frozen=True)
class Channel:
    """One channel's distribution, as observers read it.

    Attributes:
        low, high: its extremes.
        means: of the lows and of the highs of all tensors.
        centres, shares: of its occupied bins, ascending; shares sum to 1.
        search_steps, search_rounds: how finely observers search. There are thousands of channels, and behind an
            activation function one end of each range is near zero: shrinking both together finds nearly the best.
    """

    search_steps: ClassVar[int] = 40
    search_rounds: ClassVar[int] = 0

    low: float
    high: float
    means: Range
    centres: Tensor
    shares: Tensor

    def mean_extremes(self) -> Range:
        """The means of the lows and of the highs."""
        return self.means

    def points(self) -> tuple[Tensor, Tensor]:
        """Centres and shares."""
        return self.centres, self.shares


class ChannelStatistics:
    """`Statistics` of every channel of maps: memory is 16 KB a channel, whatever the data.

    Attributes:
        base: a channel's histogram covers this times a power of two, [channels]; None before the first tensor.
    """

    def __init__(self) -> None:
        self.base: Tensor | None = None
        self._lows: list[Tensor] = []
        self._highs: list[Tensor] = []
        self._reach = torch.zeros(0)
        self._counts = torch.zeros(0, _BINS, dtype=torch.float64)

    def update(self, values: Tensor, *, name: str) -> None:
        """Take in maps [batch, channels, height, width]; `name` says whose they are in the error.

        Raises:
            NumericError: they hold NaN or infinity.
        """
        low, high = (ends.float().cpu() for ends in (values.amin((0, 2, 3)), values.amax((0, 2, 3))))
        largest = torch.maximum(low.abs(), high.abs())
        if not torch.isfinite(largest).all():
            raise NumericError(
                f"The input of {name} holds NaN or infinity; the checkpoint or an image is damaged, "
                "or the model overflows in this precision."
            )
        if self.base is None:
            self.rebase(torch.where(largest > 0, largest, torch.ones_like(largest)))
        self._lows.append(low)
        self._highs.append(high)
        self._grow(largest)
        self._counts += self._counted(values.detach())

    def _counted(self, values: Tensor) -> Tensor:
        """Counts [channels, bins] of a regular sample of each channel."""
        channels = values.shape[1]
        flat = values.transpose(0, 1).reshape(channels, -1)
        # An odd step does not fall into step with the width, which is even.
        step = flat.shape[1] // _SAMPLE | 1
        reach = self._reach.to(flat.device)[:, None]
        bins = (flat[:, ::step].float() / reach).add_(1).mul_(_BINS / 2).long().clamp_(0, _BINS - 1)
        bins += torch.arange(channels, device=flat.device)[:, None] * _BINS
        counts = torch.bincount(bins.reshape(-1), minlength=channels * _BINS)
        return counts.reshape(channels, _BINS).double().cpu() * step

    @property
    def seen(self) -> bool:
        """Whether anything was taken in."""
        return bool(self._lows)

    def rebase(self, base: Tensor) -> None:
        """Choose the base, before anything was taken in."""
        self.base, self._reach = base, base.clone()
        self._counts = torch.zeros(len(base), _BINS, dtype=torch.float64)

    def merge(self, other: "ChannelStatistics") -> None:
        """Take in what another one remembers; both have the same base.

        Raises:
            ValueError: they have not.
        """
        if self.base is None or other.base is None or not torch.equal(self.base, other.base):
            raise ValueError("statistics of channels over different ranges cannot be merged")
        self._lows += other._lows
        self._highs += other._highs
        self._grow(other._reach)
        self._counts += _widened(other._counts, other._reach, self._reach)

    def _grow(self, least: Tensor) -> None:
        """Double the range of every channel that does not reach so far."""
        reach = self._reach.clone()
        while bool((short := reach < least).any()):
            reach = torch.where(short, reach * 2, reach)
        self._counts, self._reach = _widened(self._counts, self._reach, reach), reach

    def channels(self) -> Iterator[Channel]:
        """Every channel's distribution, in order."""
        lows, highs = torch.stack(self._lows), torch.stack(self._highs)
        low, high = lows.amin(0).tolist(), highs.amax(0).tolist()
        means = [_means(ends) for ends in (lows, highs)]
        middles = torch.arange(_BINS, dtype=torch.float64).add_(0.5).mul_(2 / _BINS).sub_(1)
        for index, counts in enumerate(self._counts):
            occupied = counts > 0
            centres = middles[occupied].mul(float(self._reach[index])).clamp(low[index], high[index])
            shares = counts[occupied] / counts.sum()
            yield Channel(low[index], high[index], (means[0][index], means[1][index]), centres.float(), shares.float())


def _means(ends: Tensor) -> list[float]:
    # An exactly rounded sum does not depend on the order.
    return [math.fsum(column) / len(column) for column in ends.T.tolist()]


def _widened(counts: Tensor, reach: Tensor, wanted: Tensor) -> Tensor:
    """Counts over ±reach as counts over ±wanted, which is reach times a power of two; each channel by itself."""
    while bool((short := reach < wanted).any()):
        merged = counts[short].reshape(-1, _BINS // 2, 2).sum(-1)
        counts = counts.clone()
        counts[short] = 0
        counts[short, _BINS // 4 : _BINS // 4 * 3] = merged
        reach = torch.where(short, reach * 2, reach)
    return counts
