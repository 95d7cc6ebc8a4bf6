"""What is learned during reconstruction, and only there: soft rounding and activation scales.

None of these modules may be in a finished model; each is turned into a frozen one by `harden` or `freeze`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.quantizers import ActivationQuantizer, AffineQuantizer
from mixqsam.numeric.weights import QuantizedTensor


class SoftWeight(nn.Module):
    """AdaRound's weight: ŵ = s·(clip(floor(w/s) + h(α) + z, 0, 2^b − 1) − z), h(α) = clip(1.2·sigmoid(α) − 0.1, 0, 1).

    It begins at h = the fraction of w/s, that is at ŵ = w.
    """

    def __init__(self, weight: Tensor, grid: AffineGrid) -> None:
        super().__init__()
        self.shape, self.grid = tuple(weight.shape), grid
        steps = weight.detach().float().reshape(weight.shape[0], -1) / grid.scale
        self._floor = steps.floor()
        sigmoid = ((steps - self._floor + 0.1) / 1.2).clamp(1e-4, 1 - 1e-4)
        self._floor += grid.zero
        self.alpha = nn.Parameter(torch.log(sigmoid / (1 - sigmoid)))

    def forward(self) -> Tensor:
        """The soft weight, in its own shape."""
        soft: Tensor = _Soften.apply(self.alpha, self._floor, self.grid)  # type: ignore[no-untyped-call]
        return soft.reshape(self.shape)

    @torch.no_grad()
    def settle(self, beta: float, *, weight: float) -> None:
        """Add the gradient of weight × Σ(1 − |2h − 1|^β) to α's; by autograd it would take many more passes."""
        sigmoid = torch.sigmoid(self.alpha)
        tilt = _opening(sigmoid).mul_(2).sub_(1)
        slope = tilt.abs().pow_(beta - 1).copysign_(tilt).mul_(-2.4 * beta * weight)
        slope.mul_(sigmoid).mul_(1 - sigmoid).mul_(tilt.abs_() < 1)
        self.alpha.grad = slope if self.alpha.grad is None else self.alpha.grad.add_(slope)

    @torch.no_grad()
    def undecided(self) -> float:
        """The share of elements with 0.05 < h < 0.95."""
        opening = _opening(torch.sigmoid(self.alpha))
        return float(((opening > 0.05) & (opening < 0.95)).float().mean())

    @torch.no_grad()
    def harden(self) -> QuantizedTensor:
        """The weight with every h rounded to 0 or 1."""
        up = (self.alpha >= 0).float()
        codes = up.add_(self._floor).clamp_(0, 2**self.grid.bits - 1)
        return QuantizedTensor(codes.to(torch.uint8), self.grid, self.shape)


def _opening(sigmoid: Tensor) -> Tensor:
    """h(α), from sigmoid(α)."""
    return (sigmoid * 1.2).sub_(0.1).clamp_(0, 1)


class _Soften(torch.autograd.Function):
    """α → soft weight [channels, elements]; the gradient stops where h or the code is at its end."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, floor: Tensor, grid: AffineGrid) -> Tensor:
        sigmoid = torch.sigmoid(alpha)
        codes = _opening(sigmoid).add_(floor)
        ctx.save_for_backward(sigmoid, floor)
        ctx.grid = grid
        return codes.clamp_(0, 2**grid.bits - 1).sub_(grid.zero).mul_(grid.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        sigmoid, floor = ctx.saved_tensors
        grid = ctx.grid
        # Codes leave the grid where the floor is below it, or is its last one; h is at its end outside (1/12, 11/12).
        moves = (floor >= 0) & (floor < 2**grid.bits - 1) & ((sigmoid - 0.5).abs_() < 5 / 12)
        slope = (1 - sigmoid).mul_(sigmoid).mul_(grid.scale * 1.2).mul_(gradients[0])
        return slope.mul_(moves), None, None


class LearnableQuantizer(nn.Module):
    """An activation quantizer under reconstruction: its scale may be learned (LSQ), and elements may stay float.

    Scales of affine grids are learned, as factors of what they were; other kinds are taken as they are and let
    gradients through.

    Attributes:
        start: what it began as.
        float_share: probability that an element stays float: 1 is "not quantized", QDrop has 0.5.
        generator: what elements are chosen with.
        logarithm: of the factors; None for kinds without learned scales.
    """

    def __init__(self, start: ActivationQuantizer, *, float_share: float, generator: torch.Generator) -> None:
        super().__init__()
        self.start, self.float_share, self.generator = start, float_share, generator
        self.logarithm = None
        if isinstance(start, AffineQuantizer):
            self.logarithm = nn.Parameter(torch.zeros(start.scale.numel(), device=start.scale.device))

    def forward(self, values: Tensor) -> Tensor:
        """Quantize, or not."""
        if self.float_share >= 1:
            return values
        kept = None
        if self.float_share > 0:
            kept = coins(values, self.float_share, generator=self.generator)
        start = self.start
        if not isinstance(start, AffineQuantizer):
            quantized = start(values) if kept is None else torch.lerp(start(values), values, kept)
            return values + (quantized - values).detach()
        scale, zero = start.spread(self._scale(start)), start.spread(start.zero)
        learned: Tensor = _Lsq.apply(values, scale, zero, 2**start.bits - 1, kept)  # type: ignore[no-untyped-call]
        return learned

    def _scale(self, start: AffineQuantizer) -> Tensor:
        assert self.logarithm is not None  # noqa: S101
        return start.scale * self.logarithm.exp().reshape(start.scale.shape)

    @torch.no_grad()
    def freeze(self) -> ActivationQuantizer:
        """The quantizer with what was learned, and nothing that drops."""
        start = self.start
        return start.with_scale(self._scale(start)) if isinstance(start, AffineQuantizer) else start


def coins(like: Tensor, share: float, *, generator: torch.Generator) -> Tensor:
    """Ones with probability `share` (to 1/256), else zeros, shaped as `like`.

    Floats, for arithmetic with them is many times faster than with booleans on a CPU; and 8 coins from each random
    number, for those are what takes the time.
    """
    threshold = round(share * 256)
    if threshold > 255:
        return torch.ones_like(like)
    words = torch.empty((like.numel() + 7) // 8, dtype=torch.int64, device=like.device)
    coarse = words.random_(-(2**63), None, generator=generator).view(torch.uint8)[: like.numel()]
    return (coarse < threshold).to(like.dtype).reshape(like.shape)


class _Lsq(torch.autograd.Function):
    """LSQ (arXiv 1902.08153): x̂ = s·clip(round(x/s), −z, levels − z) with gradients for x and s; kept elements pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero: Tensor, levels: int, kept: Tensor | None) -> Tensor:
        steps = values / scale
        rounded = steps.round()
        codes = torch.clamp(rounded, -zero, levels - zero)
        inside = (codes == rounded).to(values.dtype)
        # dx̂/ds: code − x/s inside the grid, the code at its ends.
        by_scale = torch.addcmul(codes, steps, inside, value=-1)
        ctx.shape = scale.shape
        quantized = codes.mul_(scale)
        if kept is not None:
            by_scale.mul_(1 - kept)
            inside = torch.maximum(inside, kept)
            quantized = torch.lerp(quantized, values, kept)
        ctx.save_for_backward(by_scale, inside)
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_scale, passes = ctx.saved_tensors
        return gradients[0] * passes, by_scale.mul(gradients[0]).sum_to_size(ctx.shape), None, None, None


class LearnableLayer(nn.Module):
    """A linear or convolution under reconstruction."""

    def __init__(self, source: nn.Linear | nn.Conv2d, weight: SoftWeight | Tensor, quantizer: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that the float layer is not a part of this module.
        self._source = (source,)
        self.input = quantizer
        self.soft = weight if isinstance(weight, SoftWeight) else None
        self._fixed = None if isinstance(weight, SoftWeight) else weight

    def forward(self, values: Tensor) -> Tensor:
        """As the float layer, with the quantized input and the soft (or fixed) weight."""
        source = self._source[0]
        weight = self._fixed if self.soft is None else self.soft()
        assert weight is not None  # noqa: S101
        if isinstance(source, nn.Conv2d):
            convolved: Tensor = source._conv_forward(self.input(values), weight, source.bias)
            return convolved
        return functional.linear(self.input(values), weight, source.bias)
