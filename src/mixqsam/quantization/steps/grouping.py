"""Channel-aware grouping (AHCPTQ, methods §3): channels of like range share an affine grid."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from mixqsam.errors import MixqsamError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.quantizers import ActivationQuantizer, GroupedQuantizer
from mixqsam.plan import Role, Unit
from mixqsam.quantization.setting import Activations, Setting

GROUPS = 4
# Linears whose inputs come from normalised tokens, where single channels are far wider than others.
_ROLES: tuple[Role, ...] = ("query-key-value", "mlp-in", "query", "key", "value")
_IMAGES, _TOKENS = 8, 128


class _Channels:
    """Each channel's extremes, and some tokens."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.tokens: list[Tensor] = []

    def __call__(self, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        flat = inputs[0].reshape(-1, inputs[0].shape[-1])
        low, high = flat.amin(0), flat.amax(0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.tokens.append(flat[:: max(1, len(flat) // _TOKENS)].clone())


@dataclass(frozen=True)
class ChannelGrouping:
    """Gives the inputs of attentions' first projections and of MLPs a grid for each channel.

    Reconstruction learns these grids and merges them, in steps, to `GROUPS` of them.
    """

    def extra_bytes(self, unit: Unit) -> int:
        """Three more scales and zero points, and the group of each channel."""
        return 5 * (GROUPS - 1) + unit.parameters // unit.channels if unit.role in _ROLES else 0

    def choose(self, setting: Setting, activations: Activations) -> Activations:
        """A grid for every channel: its extremes, shrunk by the factor with the least squared error.

        Raises:
            MixqsamError: a unit has fewer channels than groups; the message names it. Or no unit has such a role.
        """
        setting.need(*_ROLES, step="Channel-aware grouping")
        units = setting.quantized(*_ROLES)
        for unit in units:
            if unit.parameters // unit.channels < GROUPS:
                raise MixqsamError(
                    f"{unit.name} has {unit.parameters // unit.channels} input channels; grouping needs {GROUPS}. "
                    f"Choose another recipe, or leave the unit in float with --keep '{unit.name}=float'."
                )
        bits = setting.activation_bits(*_ROLES)

        def search(names: list[str]) -> Iterator[tuple[str, dict[str, list[float]]]]:
            watchers = {name: _Channels() for name in names}
            setting.watch(watchers, label="Channels, for grouping", samples=_IMAGES)
            for name in setting.progress.track(names, label="Channels' grids", total=len(names)):
                yield name, _per_channel(watchers[name], bits=bits[name])

        chosen = dict(activations)
        depends = {name: (width,) for name, width in bits.items()}
        for name, found in setting.remembered("grouping", depends, search).items():
            scale, zero = torch.tensor(found["scale"]), torch.tensor(found["zero"])
            chosen[name, "activation"] = GroupedQuantizer(
                bits[name], scale=scale, zero=zero, group=torch.arange(len(scale))
            )
        return chosen


def _per_channel(seen: _Channels, *, bits: int) -> dict[str, list[float]]:
    """Scale and zero point of each channel."""
    assert seen.low is not None  # noqa: S101  (every unit runs for every sample)
    assert seen.high is not None  # noqa: S101
    tokens = torch.cat(seen.tokens)
    best = AffineGrid.from_range(seen.low, seen.high, bits=bits)
    least = torch.full_like(seen.low, float("inf"))
    scale, zero = best.scale.clone(), best.zero.clone()
    for factor in torch.linspace(0.3, 1, 15).tolist():
        grid = AffineGrid.from_range(seen.low * factor, seen.high * factor, bits=bits)
        error = (grid.project(tokens) - tokens).square_().sum(0)
        better = error < least
        least = torch.where(better, error, least)
        scale, zero = torch.where(better, grid.scale, scale), torch.where(better, grid.zero, zero)
    return {"scale": scale.tolist(), "zero": zero.tolist()}


def merge_groups(quantizer: GroupedQuantizer, *, groups: int, seed: int = 0) -> GroupedQuantizer:
    """Merge a quantizer's groups to at most so many, by k-means on the ends of the channels' ranges.

    A merged group spans from the mean low to the mean high of its channels.
    """
    if len(quantizer.scale) <= groups:
        return quantizer
    grid = quantizer.grid
    ends = torch.stack([-grid.zero * grid.scale, (2**grid.bits - 1 - grid.zero) * grid.scale], dim=1)
    points = ends.double().cpu().numpy()
    spread = np.maximum(points.std(axis=0), 1e-12)
    with warnings.catch_warnings():
        # Where channels are alike there are fewer clusters than asked for, which is as good.
        warnings.simplefilter("ignore")
        _, labels = kmeans2(points / spread, groups, minit="++", rng=np.random.default_rng(seed))
    used, labels = np.unique(labels, return_inverse=True)
    group = torch.from_numpy(labels).to(ends.device)
    means = torch.stack([ends[group == index].mean(dim=0) for index in range(len(used))])
    merged = AffineGrid.from_range(means[:, 0], means[:, 1], bits=grid.bits)
    return GroupedQuantizer(grid.bits, scale=merged.scale, zero=merged.zero, group=group)


def merged(quantizer: ActivationQuantizer, groups: int) -> ActivationQuantizer:
    """A grouped quantizer with at most so many groups; any other as it is."""
    return merge_groups(quantizer, groups=groups) if isinstance(quantizer, GroupedQuantizer) else quantizer
