"""The kinds of frozen activation quantizers.

`QUANTIZERS` lists them; a kind is what a file says of an activation that is not on a plain affine grid.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from mixqsam.numeric.activation_quantizer import ActivationQuantizer, AffineQuantizer, demand
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.channelwise import ChannelQuantizer
from mixqsam.numeric.grouped import GroupedQuantizer

__all__ = [
    "QUANTIZERS",
    "ActivationQuantizer",
    "AffineQuantizer",
    "ChannelQuantizer",
    "GroupedQuantizer",
    "HybridQuantizer",
    "LogQuantizer",
    "Quantizer",
]


class Quantizer(AffineQuantizer):
    """A static per-tensor affine quantizer.

    See docs/method.md, “Uniform quantizers”.

    Attributes:
        scale, zero: float32 scalars.
    """

    kind = "affine"
    fields: ClassVar = {"scale": (0, torch.float32), "zero": (0, torch.uint8)}

    def __init__(self, grid: AffineGrid) -> None:
        super().__init__()
        self.bits = grid.bits
        self._keep(scale=grid.scale, zero=grid.zero)

    @property
    def step(self) -> float:
        """What whole numbers have to be multiplied by; a float32 survives the round trip."""
        return self.limits[0]

    @property
    def limits(self) -> tuple[float, float, float, float]:
        """Step, steps per unit, and the least and the greatest number of steps."""
        return self._numbers(self._limits)

    def _limits(self) -> tuple[float, float, float, float]:
        zero = float(self.zero)
        return float(self.scale), float(1 / self.scale), -zero, 2**self.bits - 1 - zero

    @classmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "Quantizer":
        """From `scale` and `zero`."""
        scale, zero = tensors["scale"], tensors["zero"].float()
        demand(scale > 0 and zero < 2**bits, "a scale that is not positive or a zero off its grid")
        return cls(AffineGrid(bits, scale, zero))

    def spread(self, values: Tensor) -> Tensor:
        """The value itself: all activations share the grid."""
        return values

    def with_scale(self, scale: Tensor) -> "Quantizer":
        """The same zero point with another scale."""
        return Quantizer(AffineGrid(self.bits, scale, self.zero))

    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """Project each value onto the grid; any shape."""
        step, per_step, low, high = self.limits
        steps = torch.mul(values, per_step).round_().clamp_(low, high)
        return steps if whole else steps.mul_(step)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, scale={self.step:.4g}, zero={float(self.zero):.0f}"


class LogQuantizer(ActivationQuantizer):
    """Adaptive granularity for softmax (PTQ4SAM): c = round(−τ·log2(a/s)), â = s·2^(−c/τ).

    See docs/method.md, “Adaptive granularity”.

    The last code stands for zero. So there are 2^b values in all; with zero beside 2^b powers, as the equation is
    usually written, there would be 2^b + 1.

    Attributes:
        scale: s, float32 scalar.
        tau: τ, the steps per octave; 1, 2 or 4.
    """

    kind = "log"
    fields: ClassVar = {"scale": (0, torch.float32), "tau": (0, torch.uint8)}
    scale: Tensor
    tau: Tensor

    def __init__(self, bits: int, *, scale: Tensor, tau: int) -> None:
        super().__init__()
        self.bits = bits
        self._keep(scale=scale, tau=torch.tensor(tau))

    def _scalars(self) -> tuple[float, int]:
        return float(self.scale), int(self.tau)

    @classmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "LogQuantizer":
        """From `scale` and `tau`."""
        demand(tensors["scale"] > 0 and tensors["tau"] > 0, "a scale or τ that is not positive")
        return cls(bits, scale=tensors["scale"], tau=int(tensors["tau"]))

    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """Project non-negative values; any shape. What is not positive becomes zero."""
        del whole
        last = 2**self.bits - 1
        scale, tau = self._numbers(self._scalars)
        codes = values.clamp(min=1e-30).div_(scale).log2_().mul_(-tau).round_().clamp_(0, last)
        powers = torch.exp2(codes / -tau).mul_(scale)
        return powers.masked_fill_(codes == last, 0.0)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, scale={float(self.scale):.4g}, tau={int(self.tau)}"


class HybridQuantizer(ActivationQuantizer):
    """Logarithmic below a knee, uniform above it (AHCPTQ's hybrid log-uniform).

    See docs/method.md, “Hybrid log-uniform grids”.

    With x' = x − low: below the knee the values are knee·2^(−c), c = 0 … n − 2, and 0, with n = `log_levels` of the
    2^b codes; above it knee + k·step, k = 1 … 2^b − n, up to span.

    Attributes:
        low, knee, span: float32 scalars, 0 < knee < span.
        log_levels: n, at least 2.
    """

    kind = "hybrid"
    fields: ClassVar = {
        "low": (0, torch.float32),
        "knee": (0, torch.float32),
        "span": (0, torch.float32),
        "log_levels": (0, torch.uint8),
    }
    low: Tensor
    knee: Tensor
    span: Tensor
    log_levels: Tensor

    def __init__(self, bits: int, *, low: Tensor, knee: Tensor, span: Tensor, log_levels: int) -> None:
        super().__init__()
        self.bits = bits
        self._keep(low=low, knee=knee, span=span, log_levels=torch.tensor(log_levels))

    def _scalars(self) -> tuple[float, float, float, int]:
        return float(self.low), float(self.knee), float(self.span), int(self.log_levels)

    @classmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "HybridQuantizer":
        """From `low`, `knee`, `span` and `log_levels`."""
        logs = int(tensors["log_levels"])
        demand(0 < tensors["knee"] < tensors["span"], "a knee outside its range")
        demand(2 <= logs < 2**bits, "more logarithmic levels than codes")
        return cls(bits, low=tensors["low"], knee=tensors["knee"], span=tensors["span"], log_levels=logs)

    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """Project each value; any shape."""
        del whole
        low, knee, span, logs = self._numbers(self._scalars)
        uniform = 2**self.bits - logs
        step = (span - knee) / uniform
        shifted = (values - low).clamp_(0, span)
        codes = shifted.clamp(min=1e-30).div_(knee).log2_().neg_().round_().clamp_(0, logs - 1)
        below = torch.exp2(-codes).mul_(knee).masked_fill_(codes == logs - 1, 0.0)
        above = (shifted - knee).div_(step).round_().clamp_(0, uniform).mul_(step).add_(knee)
        return torch.where(shifted <= knee, below, above).add_(low)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        low, knee, span, logs = self._scalars()
        return f"bits={self.bits}, low={low:.4g}, knee={knee:.4g}, span={span:.4g}, logs={logs}"


QUANTIZERS: dict[str, type[ActivationQuantizer]] = {
    one.kind: one for one in (Quantizer, LogQuantizer, HybridQuantizer, GroupedQuantizer, ChannelQuantizer)
}
