"""Fake-quantized layers: the arithmetic is float, the values are those of b bits."""

from torch import Tensor, nn
from torch.nn import functional

from mixqsam.numeric.quantizers import ActivationQuantizer
from mixqsam.numeric.weights import QuantizedTensor


class QuantizedLayer(nn.Module):
    """A weight on its grid, a bias in float, and the quantizer of the input."""

    weight: Tensor

    def __init__(self, weight: QuantizedTensor, bias: Tensor | None, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.input: ActivationQuantizer = quantizer
        self.stored = weight
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.register_buffer("weight", weight.dequantize(), persistent=False)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored of it beside the bias: packed weight, its grid, and the input's quantizer."""
        return {
            **{f"weight{ending}": tensor for ending, tensor in self.stored.tensors().items()},
            **{f"input_{name}": tensor for name, tensor in self.input.tensors().items()},
        }

    @property
    def quantizers(self) -> dict[str, ActivationQuantizer]:
        """Role → quantizer of an activation."""
        return {"input": self.input}

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"shape={self.stored.shape}, bits={self.stored.grid.bits}"


class QuantizedLinear(QuantizedLayer):
    """y = x̂·ŵᵀ + bias."""

    def forward(self, values: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        return functional.linear(self.input(values), self.weight, self.bias)


class QuantizedConv2d(QuantizedLayer):
    """A convolution of the quantized input with the quantized kernel."""

    def __init__(
        self, weight: QuantizedTensor, bias: Tensor | None, quantizer: ActivationQuantizer, *, source: nn.Conv2d
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

    @property
    def quantizers(self) -> dict[str, ActivationQuantizer]:
        """Role → quantizer of an activation; empty while the product is float."""
        roles = {"left": self.left, "right": self.right}
        return {role: one for role, one in roles.items() if isinstance(one, ActivationQuantizer)}

    def tensors(self) -> dict[str, Tensor]:
        """What is stored of it; nothing while it is float."""
        return {
            f"{role}_{name}": tensor
            for role, quantizer in self.quantizers.items()
            for name, tensor in quantizer.tensors().items()
        }

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Left [..., n, k] @ right [..., k, m]; both have been through their quantizers."""
        return left @ right
