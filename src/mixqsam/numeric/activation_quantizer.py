"""What every frozen activation quantizer is: b bits, no modes, at most 2^b distinct values (per channel).

Whoever works with quantizers asks them for what differs, so that a new kind is a class, listed in `QUANTIZERS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.derived import Derived, keeping_types

Numbers = TypeVar("Numbers")


class ActivationQuantizer(nn.Module, ABC):
    """Projects activations onto a fixed set of values.

    Attributes:
        kind: its name in files.
        fields: what is stored of it: buffer → (shape's rank, type).
        channel_axis: the axis of activations on which channels lie: −1 in tokens, −3 in maps [batch, channels, h, w].
        deployed_groups: to how many groups its channels are merged before it is deployed; 0 where nothing is merged.
        bits: bit-width b.
    """

    kind: ClassVar[str]
    fields: ClassVar[Mapping[str, tuple[int, torch.dtype]]]
    channel_axis: ClassVar[int] = -1
    deployed_groups: ClassVar[int] = 0
    bits: int

    def __init__(self) -> None:
        super().__init__()
        # Plain numbers of the buffers, which passes read instead of tensors.
        self._derived: Derived[Any] = Derived()

    @property
    def step(self) -> float:
        """What `forward(…, whole=True)` has to be multiplied by; 1 where a quantizer has no single step."""
        return 1.0

    def _numbers(self, make: Callable[[], Numbers]) -> Numbers:
        """What `make` computes from the buffers, kept until one of them changes."""
        numbers: Numbers = self._derived.get(self._buffers.values(), make)
        return numbers

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ActivationQuantizer":
        """As for any module, but the buffers keep their types."""
        super()._apply(keeping_types(fn), recurse)  # type: ignore[no-untyped-call]
        return self

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
            ValueError: the tensors do not describe a quantizer of `bits` bits.
        """

    @property
    def channels(self) -> int | None:
        """How many channels have a grid chosen for them; None where all values share one, however many channels."""
        return None

    def check_channels(self, channels: int | None) -> None:
        """Refuse activations with another number of channels; None where they have no fixed number.

        Raises:
            ValueError: it says both numbers.
        """
        expected = "one for all channels" if channels is None else f"grids for {channels}"
        demand(self.channels in {None, channels}, f"grids for {self.channels} channels, expected {expected}")

    def check_groups(self, groups: int) -> None:
        """Refuse a layer with `groups` groups of channels (1 for a linear) whose product it has no step for.

        Raises:
            ValueError: it says which layers it is for.
        """
        del groups

    @property
    def groups(self) -> int:
        """Groups of channels that may be merged; 0 where nothing is merged."""
        return 0

    def merged(self, groups: int) -> "ActivationQuantizer":
        """The quantizer with at most `groups` groups of channels."""
        del groups
        return self

    def deployable(self) -> "ActivationQuantizer":
        """The quantizer with as many groups of channels as may be deployed."""
        return self.merged(self.deployed_groups)

    def product_scale(self, weight_scale: Tensor) -> Tensor:
        """What a layer's product of whole numbers is multiplied by: step of the input × step of each output channel.

        Args:
            weight_scale: steps of the weight's channels.

        Returns:
            float32 [channels].
        """
        return weight_scale.reshape(-1).float() * self.step

    def _keep(self, **buffers: Tensor) -> None:
        for name, value in buffers.items():
            rank, _ = self.fields[name]
            kept = value.detach().float().clone()
            self.register_buffer(name, kept.reshape(()) if rank == 0 else kept)


class AffineQuantizer(ActivationQuantizer):
    """On affine grids: one for all values, or several, each for some channels. Reconstruction can learn their scales.

    Attributes:
        scale, zero: of each grid, float32.
    """

    scale: Tensor
    zero: Tensor

    @abstractmethod
    def spread(self, values: Tensor) -> Tensor:
        """A value for each grid, shaped as `scale` → shaped to broadcast against activations; differentiable."""

    @abstractmethod
    def with_scale(self, scale: Tensor) -> "AffineQuantizer":
        """The same quantizer with other scales, shaped as `scale`."""

    @property
    def grid(self) -> AffineGrid:
        """Its grids as one that broadcasts against activations."""
        return AffineGrid(self.bits, self.spread(self.scale), self.spread(self.zero))


def demand(condition: object, message: str) -> None:
    """Refuse what does not describe a quantizer.

    Raises:
        ValueError: with the message, where the condition does not hold.
    """
    if not condition:
        raise ValueError(message)
