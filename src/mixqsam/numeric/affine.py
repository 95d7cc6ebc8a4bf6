"""The affine grid: x̂ = s·(clip(round(x/s) + z, 0, 2^b − 1) − z).

See docs/method.md, “Uniform quantizers”.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AffineGrid:
    """Scale and zero point of one tensor, or of each row of it.

    Attributes:
        bits: bit-width b; codes run from 0 to 2^b − 1.
        scale: step s > 0, float32; a scalar, or shaped so that it broadcasts against the tensor.
        zero: zero point z, a whole number in [0, 2^b − 1], float32, shaped as `scale`. Zero is always on the grid.
    """

    bits: int
    scale: Tensor
    zero: Tensor

    @classmethod
    def from_range(cls, low: Tensor, high: Tensor, *, bits: int, signed: bool = False) -> "AffineGrid":
        """The grid that spans [min(low, 0), max(high, 0)].

        A range of zero width gets scale 1: everything maps to zero.

        Args:
            low: the range's lower end.
            high: its upper end.
            bits: bit-width.
            signed: at 8 bits the zero point is 128, so that code − zero fits a signed byte, as integer kernels want of
                a weight (up to 7 bits it always does); where the range is about symmetric it costs less than a code.
        """
        levels = 2**bits - 1
        low, high = low.float().clamp(max=0), high.float().clamp(min=0)
        if signed and bits == 8:
            widest = torch.maximum(-low / 128, high / 127)
            low, high = -128 * widest, 127 * widest
        scale = (high - low) / levels
        # A subnormal step would make x/s overflow.
        scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
        zero = (-low / scale).round().clamp(0, levels)
        return cls(bits, scale, zero)

    @classmethod
    def spanning(cls, low: Tensor, high: Tensor, *, bits: int, signed: bool = False) -> "AffineGrid":
        """`from_range` for what is stored in rows: the step is the next bfloat16, which is how it is stored."""
        exact = cls.from_range(low, high, bits=bits, signed=signed)
        scale = _next_bfloat16(exact.scale)
        if signed and bits == 8:
            return cls(bits, scale, exact.zero)
        return cls(bits, scale, (-low.float().clamp(max=0) / scale).round().clamp(0, 2**bits - 1))

    def encode(self, values: Tensor) -> Tensor:
        """Codes in [0, 2^b − 1] as uint8, shaped as `values`."""
        codes = (values / self.scale).round_().add_(self.zero).clamp_(0, 2**self.bits - 1)
        return codes.to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """The float32 values that the codes stand for."""
        return (codes.float() - self.zero) * self.scale

    def project(self, values: Tensor) -> Tensor:
        """The nearest grid point of each value (clipped to the grid's range)."""
        steps = (values / self.scale).round_()
        # torch vectorizes these two, but not a clamp between tensors, which takes three times as long.
        steps = torch.minimum(torch.maximum(steps, -self.zero), 2**self.bits - 1 - self.zero)
        return steps.mul_(self.scale)


def _next_bfloat16(values: Tensor) -> Tensor:
    """The least bfloat16 that is not below each positive float32 value, as float32."""
    return ((values.contiguous().view(torch.int32) + 0xFFFF) & -0x10000).view(torch.float32)
