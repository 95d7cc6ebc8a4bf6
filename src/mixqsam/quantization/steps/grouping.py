"""Channel-aware grouping (AHCPTQ): channels of like range share an affine grid.

See docs/method.md, “Channel-aware grouping”.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mixqsam.errors import MixqsamError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.quantizers import GroupedQuantizer
from mixqsam.plan import Role, Unit
from mixqsam.quantization.setting import Activations, Setting

_GROUPS = GroupedQuantizer.deployed_groups
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

    Reconstruction learns these grids and merges them, in steps, to four of them.
    """

    def extra_bytes(self, unit: Unit) -> int:
        """Three more scales and zero points, and the group of each channel."""
        return 5 * (_GROUPS - 1) + unit.parameters // unit.channels if unit.role in _ROLES else 0

    def choose(self, setting: Setting, activations: Activations) -> Activations:
        """A grid for every channel: its extremes, shrunk by the factor with the least squared error.

        Raises:
            MixqsamError: a unit has fewer channels than groups; the message names it. Or no unit has such a role.
        """
        setting.need(*_ROLES, step="Channel-aware grouping")
        bits = setting.activation_bits(*_ROLES)
        for unit in setting.quantized(*_ROLES):
            if unit.name in bits and unit.parameters // unit.channels < _GROUPS:
                raise MixqsamError(
                    f"{unit.name} has {unit.parameters // unit.channels} input channels; grouping needs {_GROUPS}. "
                    f"Choose another recipe, or leave the unit in float with --keep '{unit.name}=float'."
                )

        def search(names: list[str]) -> Iterator[tuple[str, dict[str, list[float]]]]:
            watchers = {name: _Channels() for name in names}
            setting.watch(watchers, label="Channels, for grouping", samples=_IMAGES)
            for name in setting.progress.track(names, label="Channels' grids", total=len(names)):
                yield name, _per_channel(watchers[name], bits=bits[name])

        chosen = dict(activations)
        depends = {name: (width,) for name, width in bits.items()}
        for name, found in setting.remembered("grouping", depends, search).items():
            scale, zero = torch.tensor(found["scale"]), torch.tensor(found["zero"])
            chosen[name, "input"] = GroupedQuantizer(bits[name], scale=scale, zero=zero, group=torch.arange(len(scale)))
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
