"""What a unit of 16 bits has: a weight in half precision, and an activation without a quantizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mixqsam.errors import NumericError
from mixqsam.numeric.activation_quantizer import ActivationQuantizer
from mixqsam.numeric.weights import QuantizedTensor
from mixqsam.plan import HALF_BITS

HALF_TYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class HalfTensor:
    """A weight in half precision.

    Attributes:
        values: float16 or bfloat16, in the weight's own shape [channels, …].
    """

    values: Tensor
    bits: ClassVar[int] = HALF_BITS

    @classmethod
    def nearest(cls, weight: Tensor, *, name: str) -> "HalfTensor":
        """Round a float32 weight to the type with the smaller squared error; float16 where both are equal.

        Args:
            weight: [channels, …].
            name: whose weight it is, for the error.

        Raises:
            NumericError: the weight holds NaN or infinity, or a value that neither type can hold.
        """
        exact = weight.detach().float()
        candidates = [exact.to(kind) for kind in HALF_TYPES]
        errors = [float((values.double() - exact).square().sum()) for values in candidates]
        # An overflow is infinite, so that the other type wins; what is NaN in one type is NaN in both.
        error, values = min(zip(errors, candidates, strict=True), key=lambda pair: pair[0])
        if not error < float("inf"):
            raise NumericError(f"The weight of {name} holds NaN or infinity; the checkpoint is damaged.")
        return cls(values.contiguous())

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return tuple(self.values.shape)

    @property
    def scale(self) -> Tensor:
        """The step of each channel: 1, for there is no grid. Float32 [channels, 1]."""
        return torch.ones(len(self.values), 1, device=self.values.device)

    def dequantize(self) -> Tensor:
        """The float32 weight."""
        return self.values.float()

    def whole(self) -> Tensor:
        """What products are computed with; see `QuantizedTensor.whole`. Without a grid, the weight itself."""
        return self.values.float()

    def tensors(self) -> dict[str, Tensor]:
        """What is stored of it, by the ending of the name: the values, with one axis."""
        return {"": self.values.detach().reshape(-1).cpu()}


# A weight of any number of bits, as it is stored.
StoredWeight = QuantizedTensor | HalfTensor


class Unquantized(ActivationQuantizer):
    """An activation of 16 bits: it is left as it is, in float32, and nothing is stored of it."""

    kind = "none"
    fields: ClassVar = {}
    bits = HALF_BITS

    @classmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "Unquantized":
        """From nothing."""
        del bits, tensors
        return cls()

    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """The values themselves; any shape."""
        del whole
        return values

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}"
