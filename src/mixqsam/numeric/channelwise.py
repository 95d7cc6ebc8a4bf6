"""A grid for each channel of maps, for the inputs of depthwise convolutions."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from mixqsam.numeric.activation_quantizer import AffineQuantizer, demand
from mixqsam.numeric.affine import AffineGrid


class ChannelQuantizer(AffineQuantizer):
    """An affine grid for each channel of maps [batch, channels, height, width].

    A depthwise convolution meets each channel with that channel's weights only, so the steps leave its sums:
    y_c = s_c·t_c·Σ (q_x − z_c)·q_w, with the weight's step t_c. See docs/method.md, “Uniform quantizers”.

    Attributes:
        scale, zero: float32 [channels]; scales are bfloat16 numbers, which is how they are stored.
    """

    kind = "channels"
    channel_axis = -3
    fields: ClassVar = {"scale": (1, torch.float32), "zero": (1, torch.uint8)}

    def __init__(self, grid: AffineGrid) -> None:
        super().__init__()
        self.bits = grid.bits
        self._keep(scale=grid.scale.float().bfloat16(), zero=grid.zero)

    def _limits(self) -> tuple[Tensor, Tensor, Tensor]:
        """Steps per unit, and the least and the greatest number of steps, shaped to broadcast against maps."""
        per_step, low, high = 1 / self.scale, -self.zero, 2**self.bits - 1 - self.zero
        return self.spread(per_step), self.spread(low), self.spread(high)

    @classmethod
    def from_range(cls, low: Tensor, high: Tensor, *, bits: int) -> "ChannelQuantizer":
        """The grids that span [min(low, 0), max(high, 0)]; both ends are [channels]."""
        return cls(AffineGrid.spanning(low, high, bits=bits))

    @classmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "ChannelQuantizer":
        """From `scale` and `zero`."""
        scale, zero = tensors["scale"], tensors["zero"].float()
        demand(len(scale) == len(zero) > 0, "as many scales as zeros are needed")
        demand(bool((scale > 0).all()) and bool((zero < 2**bits).all()), "a scale or zero off its grid")
        demand(torch.equal(scale, scale.bfloat16().float()), "scales that are not bfloat16 numbers")
        return cls(AffineGrid(bits, scale, zero))

    def tensors(self) -> dict[str, Tensor]:
        """Scales as bfloat16, zero points as uint8."""
        return super().tensors() | {"scale": self.scale.detach().to("cpu", torch.bfloat16).contiguous()}

    @property
    def channels(self) -> int:
        """Channels that it has a grid for."""
        return len(self.scale)

    def check_groups(self, groups: int) -> None:
        """Refuse layers that sum over channels; the step of a sum over several grids does not exist."""
        demand(groups == self.channels, "a grid for each channel, which only a depthwise convolution can use")

    def spread(self, values: Tensor) -> Tensor:
        """[channels] → [channels, 1, 1]."""
        return values[:, None, None]

    def with_scale(self, scale: Tensor) -> "ChannelQuantizer":
        """The same zero points with other scales, rounded to bfloat16."""
        return ChannelQuantizer(AffineGrid(self.bits, scale, self.zero))

    def product_scale(self, weight_scale: Tensor) -> Tensor:
        """Step of each input channel × step of the weight's channel that meets it."""
        return weight_scale.reshape(-1).float() * self.scale

    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """Project maps [..., channels, height, width]."""
        per_step, low, high = self._numbers(self._limits)
        steps = torch.mul(values, per_step).round_().clamp_(low, high)
        return steps if whole else steps.mul_(self.spread(self.scale))

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, channels={self.channels}"
