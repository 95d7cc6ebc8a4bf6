"""Frozen activation quantizers: each has b bits, no modes, and emits at most 2^b distinct values (per channel).

`QUANTIZERS` lists the kinds; a kind is what a file says of an activation that is not on a plain affine grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixqsam.numeric.affine import AffineGrid


class ActivationQuantizer(nn.Module, ABC):
    """Projects activations onto a fixed set of values.

    Attributes:
        kind: its name in files.
        fields: what is stored of it: buffer → (shape's rank, type).
        bits: bit-width b.
        step: what `forward(…, whole=True)` has to be multiplied by; 1 where a quantizer has no single step.
    """

    step: float = 1.0
    kind: ClassVar[str]
    fields: ClassVar[Mapping[str, tuple[int, torch.dtype]]]
    bits: int

    @abstractmethod
    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """Project values.

        Args:
            values: float32.
            whole: leave the step out where there is one: the result is whole numbers, and products of whole numbers are
                exact in float32 (below 2²⁴), so that they do not depend on the order of summation. Rounding a sum is a
                cliff: without this, two orders of summation, or two libraries, would soon differ by whole steps.
        """

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, in the types in which it is stored."""
        return {
            name: self.get_buffer(name).detach().to("cpu", dtype).contiguous()
            for name, (_, dtype) in self.fields.items()
        }

    @classmethod
    @abstractmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "ActivationQuantizer":
        """The inverse of `tensors`.

        Raises:
            ValueError: the tensors do not describe a quantizer of so many bits.
        """

    def _keep(self, **buffers: Tensor) -> None:
        for name, value in buffers.items():
            rank, _ = self.fields[name]
            kept = value.detach().float().clone()
            self.register_buffer(name, kept.reshape(()) if rank == 0 else kept)


def _demand(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


class Quantizer(ActivationQuantizer):
    """A static per-tensor affine quantizer.

    See docs/method.md, “Uniform quantizers”.

    Attributes:
        scale, zero: float32 scalars.
    """

    kind = "affine"
    fields: ClassVar = {"scale": (0, torch.float32), "zero": (0, torch.uint8)}
    scale: Tensor
    zero: Tensor

    def __init__(self, grid: AffineGrid) -> None:
        super().__init__()
        self.bits = grid.bits
        self._keep(scale=grid.scale, zero=grid.zero)
        # Plain numbers, so that the passes below read no tensor; a float32 survives the round trip.
        self.step = float(self.scale)
        self._per_step = float(1 / self.scale)
        self._low = -float(self.zero)
        self._high = 2**self.bits - 1 - float(self.zero)

    @classmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "Quantizer":
        """From `scale` and `zero`."""
        scale, zero = tensors["scale"], tensors["zero"].float()
        _demand(scale > 0 and zero < 2**bits, "a scale that is not positive or a zero off its grid")
        return cls(AffineGrid(bits, scale, zero))

    @property
    def grid(self) -> AffineGrid:
        """The grid it projects onto."""
        return AffineGrid(self.bits, self.scale, self.zero)

    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """Project each value onto the grid; any shape."""
        steps = torch.mul(values, self._per_step).round_().clamp_(self._low, self._high)
        return steps if whole else steps.mul_(self.step)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, scale={self.step:.4g}, zero={-self._low:.0f}"


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
        self._scale, self._tau = float(self.scale), tau

    @classmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "LogQuantizer":
        """From `scale` and `tau`."""
        _demand(tensors["scale"] > 0 and tensors["tau"] > 0, "a scale or τ that is not positive")
        return cls(bits, scale=tensors["scale"], tau=int(tensors["tau"]))

    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """Project non-negative values; any shape. What is not positive becomes zero."""
        del whole
        last = 2**self.bits - 1
        codes = values.clamp(min=1e-30).div_(self._scale).log2_().mul_(-self._tau).round_().clamp_(0, last)
        powers = torch.exp2(codes / -self._tau).mul_(self._scale)
        return powers.masked_fill_(codes == last, 0.0)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, scale={self._scale:.4g}, tau={self._tau}"


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
        self._low, self._knee, self._span = float(self.low), float(self.knee), float(self.span)
        self._logs = log_levels

    @classmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "HybridQuantizer":
        """From `low`, `knee`, `span` and `log_levels`."""
        logs = int(tensors["log_levels"])
        _demand(0 < tensors["knee"] < tensors["span"], "a knee outside its range")
        _demand(2 <= logs < 2**bits, "more logarithmic levels than codes")
        return cls(bits, low=tensors["low"], knee=tensors["knee"], span=tensors["span"], log_levels=logs)

    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """Project each value; any shape."""
        del whole
        uniform = 2**self.bits - self._logs
        step = (self._span - self._knee) / uniform
        shifted = (values - self._low).clamp_(0, self._span)
        codes = shifted.clamp(min=1e-30).div_(self._knee).log2_().neg_().round_().clamp_(0, self._logs - 1)
        below = torch.exp2(-codes).mul_(self._knee).masked_fill_(codes == self._logs - 1, 0.0)
        above = (shifted - self._knee).div_(step).round_().clamp_(0, uniform).mul_(step).add_(self._knee)
        return torch.where(shifted <= self._knee, below, above).add_(self._low)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, low={self._low:.4g}, knee={self._knee:.4g}, span={self._span:.4g}, logs={self._logs}"


class GroupedQuantizer(ActivationQuantizer):
    """Channels in groups, each group with its own affine grid (AHCPTQ's channel-aware grouping).

    See docs/method.md, “Channel-aware grouping”.

    Attributes:
        scale, zero: float32 [groups].
        group: of each channel (the last axis), float32 whole numbers [channels].
    """

    kind = "grouped"
    fields: ClassVar = {"scale": (1, torch.float32), "zero": (1, torch.uint8), "group": (1, torch.uint8)}
    scale: Tensor
    zero: Tensor
    group: Tensor

    def __init__(self, bits: int, *, scale: Tensor, zero: Tensor, group: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self._keep(scale=scale, zero=zero, group=group)

    @classmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "GroupedQuantizer":
        """From `scale`, `zero` and `group`."""
        scale, zero, group = tensors["scale"], tensors["zero"].float(), tensors["group"]
        _demand(len(scale) == len(zero) > 0, "as many scales as zeros are needed")
        _demand(bool((scale > 0).all()) and bool((zero < 2**bits).all()), "a scale or zero off its grid")
        _demand(len(group) > 0 and int(group.max()) < len(scale), "a channel in a group that does not exist")
        return cls(bits, scale=scale, zero=zero, group=group)

    @property
    def grid(self) -> AffineGrid:
        """The grid of every channel: scale and zero point of shape [channels]."""
        index = self.group.long()
        return AffineGrid(self.bits, self.scale[index], self.zero[index])

    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """Project values [..., channels]."""
        del whole
        return self.grid.project(values)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, groups={len(self.scale)}, channels={len(self.group)}"


QUANTIZERS: dict[str, type[ActivationQuantizer]] = {
    one.kind: one for one in (Quantizer, LogQuantizer, HybridQuantizer, GroupedQuantizer)
}
