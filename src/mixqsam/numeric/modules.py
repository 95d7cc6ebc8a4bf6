"""Fake-quantized layers: the arithmetic is float, the values are those of b bits."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixqsam.numeric.derived import exact, keeping_types
from mixqsam.numeric.half import StoredWeight, Unquantized
from mixqsam.numeric.quantizers import ActivationQuantizer


class StoredLayer(nn.Module, ABC):
    """A quantized weight, a bias in float, and the quantizer of the input.

    Attributes:
        bias: float32, or None.
        input: the input's quantizer.
    """

    bias: nn.Parameter | None
    input: ActivationQuantizer

    @property
    @abstractmethod
    def stored(self) -> StoredWeight:
        """The weight as it is stored."""

    @abstractmethod
    def compute(self, values: Tensor) -> Tensor:
        """The layer's output for float32 values."""

    @property
    def is_exact(self) -> bool:
        """Whether its input is whole numbers. Floats may be rounded to the type of autocast."""
        return not isinstance(self.input, Unquantized)

    @exact
    def forward(self, values: Tensor) -> Tensor:
        """The layer's output, in the type of the values.

        It is computed in whole numbers and float32; where the input is not quantized, in the type of autocast.
        """
        return self.compute(values.float()).to(values.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StoredLayer":
        """As for any module, but codes, scales and bias keep their types."""
        super()._apply(keeping_types(fn), recurse)  # type: ignore[no-untyped-call]
        return self

    def stored_weight(self) -> dict[str, Tensor]:
        """What is stored of the weight; see `QuantizedTensor.tensors`."""
        return self.stored.tensors()

    def tensors(self) -> dict[str, Tensor]:
        """What is stored of it beside the bias: packed weight, its grid, and the input's quantizer."""
        return {
            **{f"weight{ending}": tensor for ending, tensor in self.stored_weight().items()},
            **{f"input_{name}": tensor for name, tensor in self.input.tensors().items()},
        }

    @property
    def quantizers(self) -> dict[str, ActivationQuantizer]:
        """Operand → quantizer of an activation."""
        return {"input": self.input}


class QuantizedLayer(StoredLayer):
    """A layer that computes with the quantized values in float arithmetic.

    Attributes:
        weight: the weight in steps, as whole numbers in float32; a weight of 16 bits as it is.
        weight_scale: the step of each output channel, float32.
    """

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, weight: StoredWeight, bias: Tensor | None, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.input = quantizer
        self._stored = weight
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.register_buffer("weight", weight.whole(), persistent=False)
        self.register_buffer("weight_scale", weight.scale.reshape(-1).float().clone(), persistent=False)

    @property
    def scale(self) -> Tensor:
        """What the product of whole numbers is multiplied by, [channels]."""
        return self.input.product_scale(self.weight_scale)

    @property
    def stored(self) -> StoredWeight:
        """The weight as it is stored."""
        return self._stored

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"shape={self.stored.shape}, bits={self.stored.bits}"


class QuantizedLinear(QuantizedLayer):
    """y = x̂·ŵᵀ + bias."""

    def compute(self, values: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        product = functional.linear(self.input(values, whole=True), self.weight)
        return scaled(product, self.scale, self.bias)


class QuantizedConv2d(QuantizedLayer):
    """A convolution of the quantized input with the quantized kernel."""

    def __init__(
        self, weight: StoredWeight, bias: Tensor | None, quantizer: ActivationQuantizer, *, source: nn.Conv2d
    ) -> None:
        super().__init__(weight, bias, quantizer)
        self.stride = source.stride
        self.padding = source.padding
        self.dilation = source.dilation
        self.groups = source.groups

    def compute(self, values: Tensor) -> Tensor:
        """Map [batch, in, height, width] to [batch, out, height', width']."""
        product = functional.conv2d(
            self.input(values, whole=True), self.weight, None, self.stride, self.padding, self.dilation, self.groups
        )
        return scaled(product, self.scale[:, None, None], None if self.bias is None else self.bias[:, None, None])


def scaled(product: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """product·scale + bias, in place, each rounded by itself: so does oneDNN after its integer products."""
    product.mul_(scale)
    return product if bias is None else product.add_(bias)


class Product(nn.Module):
    """A matrix product of two activations, with a place for a quantizer on each operand.

    The caller passes each operand through `operand` once, multiplies, and multiplies the result by the steps. So an
    operand that is used twice (q, in the relative positions) is quantized once, and a product may be made in pieces.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left: nn.Module = nn.Identity()
        self.right: nn.Module = nn.Identity()

    @property
    def quantizers(self) -> dict[str, ActivationQuantizer]:
        """Operand → quantizer of an activation; empty while the product is float."""
        modules = {"left": self.left, "right": self.right}
        return {operand: one for operand, one in modules.items() if isinstance(one, ActivationQuantizer)}

    @property
    def generators(self) -> list[torch.Generator]:
        """What its operands draw random numbers from, while they are learned."""
        found = (getattr(module, "generator", None) for module in (self.left, self.right))
        return [one for one in found if isinstance(one, torch.Generator)]

    def operand(self, name: str, values: Tensor) -> tuple[Tensor, float]:
        """An operand (`left` or `right`), quantized if it is to be, and the step that it has to be multiplied by."""
        module: nn.Module = getattr(self, name)
        if isinstance(module, ActivationQuantizer):
            projected: tuple[Tensor, float] = self._project(module, values)
            return projected
        return module(values), 1.0

    @exact
    def _project(self, quantizer: ActivationQuantizer, values: Tensor) -> tuple[Tensor, float]:
        """Whole numbers, which are exact up to 255 in any type that a model may be moved to, and their step."""
        return quantizer(values.float(), whole=True).to(values.dtype), quantizer.step

    def tensors(self) -> dict[str, Tensor]:
        """What is stored of it; nothing while it is float."""
        return {
            f"{operand}_{name}": tensor
            for operand, quantizer in self.quantizers.items()
            for name, tensor in quantizer.tensors().items()
        }

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Left [..., n, k] @ right [..., k, m]; both have been through their quantizers."""
        return self.multiply(left, right)

    def multiply(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiply left [..., n, k] by right [..., k, m]; rough passes put another function in its place."""
        return left @ right


class Mlp(nn.Module):
    """Two linears with an activation function between them; families put it in the place of their own."""

    def __init__(self, lin1: nn.Module, act: nn.Module, lin2: nn.Module) -> None:
        super().__init__()
        self.lin1, self.act, self.lin2 = lin1, act, lin2

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [..., channels] to the same shape."""
        out: Tensor = self.lin2(self.act(self.lin1(hidden_states)))
        return out
