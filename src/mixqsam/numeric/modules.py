"""Frozen quantizers and fake-quantized layers: the arithmetic is float, the values are those of b bits."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.weights import QuantizedTensor


class Quantizer(nn.Module):
    """A static per-tensor activation quantizer. It has no state but its grid, and no modes.

    Attributes:
        bits: bit-width.
        scale, zero: float32 scalars.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, grid: AffineGrid) -> None:
        super().__init__()
        self.bits = grid.bits
        self.register_buffer("scale", grid.scale.detach().float().reshape(()).clone())
        self.register_buffer("zero", grid.zero.detach().float().reshape(()).clone())
        # Plain numbers, so that the four passes below read no tensor; a float32 survives the round trip.
        self._step = float(self.scale)
        self._low = -float(self.zero)
        self._high = 2**self.bits - 1 - float(self.zero)

    @property
    def grid(self) -> AffineGrid:
        """The grid it projects onto."""
        return AffineGrid(self.bits, self.scale, self.zero)

    def forward(self, values: Tensor) -> Tensor:
        """Project each value onto the grid; any shape."""
        return torch.div(values, self._step).round_().clamp_(self._low, self._high).mul_(self._step)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, scale={self._step:.4g}, zero={-self._low:.0f}"


class _QuantizedLayer(nn.Module):
    """A weight on its grid, a bias in float, and the quantizer of the input."""

    weight: Tensor

    def __init__(self, weight: QuantizedTensor, bias: Tensor | None, quantizer: Quantizer) -> None:
        super().__init__()
        self.input = quantizer
        self.stored = weight
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.register_buffer("weight", weight.dequantize(), persistent=False)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"shape={self.stored.shape}, bits={self.stored.grid.bits}"


class QuantizedLinear(_QuantizedLayer):
    """y = x̂·ŵᵀ + bias."""

    def forward(self, values: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        return functional.linear(self.input(values), self.weight, self.bias)


class QuantizedConv2d(_QuantizedLayer):
    """A convolution of the quantized input with the quantized kernel."""

    def __init__(
        self, weight: QuantizedTensor, bias: Tensor | None, quantizer: Quantizer, *, source: nn.Conv2d
    ) -> None:
        super().__init__(weight, bias, quantizer)
        self.stride = source.stride
        self.padding = source.padding
        self.dilation = source.dilation
        self.groups = source.groups

    def forward(self, values: Tensor) -> Tensor:
        """Map [batch, in, height, width] to [batch, out, height', width']."""
        return functional.conv2d(
            self.input(values), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Product(nn.Module):
    """A matrix product of two activations, with a place for a quantizer on each operand.

    The caller passes each operand through `left` or `right` once, then multiplies; so an operand that is used
    twice (q, in the relative positions) is quantized once, and a product may be computed in pieces.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left: nn.Module = nn.Identity()
        self.right: nn.Module = nn.Identity()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Left [..., n, k] @ right [..., k, m]; both have been through their quantizers."""
        return left @ right
