"""Gradients of units' operands; a backward pass passes each to a callback once, and does not store it.

What the first blocks save for the backward pass is kept, up to `_KEPT_BYTES`. The others are computed again in the
backward pass (torch's checkpoints), so that the memory is bounded, whatever the number of blocks.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from mixqsam.numeric.rough import apply_linear, multiply_roughly, roughen
from mixqsam.plan import Operand, Part, Unit
from mixqsam.sam.hooks import replace_method
from mixqsam.sam.load import Sam
from mixqsam.sam.replay import chain_of
from mixqsam.sam.rough import rough_products
from mixqsam.sam.units import operand_taps

_PARTS: tuple[Part, ...] = ("encoder", "decoder")
# Bytes that blocks may save before the next ones are computed again; at 1024 pixels a block of SAM-B saves 0.3 GB.
_KEPT_BYTES = 4 << 30
# Given a unit and one of its activations: the values and their gradient.
MeetActivation = Callable[[Unit, Operand, Tensor, Tensor], None]
# Given a unit, its module, its input, and the gradient of its output (in bfloat16 where the layer is large).
MeetWeight = Callable[[Unit, nn.Module, Tensor, Tensor], None]


@contextmanager
def gradients_met(sam: Sam, *, activation: MeetActivation, weight: MeetWeight) -> Iterator[None]:
    """While this is open, a backward pass through the model shows the gradients of all operands of all units.

    The parameters of the model need not require gradients. An operand's gradient is that of its own use: where several
    units read one tensor, each sees its share. A product that is made in pieces shows each piece. Large products are
    made in bfloat16, where the processor has it.

    Args:
        sam: a float model.
        activation: is shown every activation with its gradient.
        weight: is shown what a weight's gradient is made of; `weight_gradient` makes it.
    """
    anchor = torch.zeros((), requires_grad=True, device=sam.device)
    units = sam.costs().units
    with ExitStack() as stack, rough_products(sam):
        # A block that is one unit has nothing within it to keep.
        blocks = [path for path in _block_paths(sam) if path not in {unit.name for unit in units}]
        kept = _Kept(sam.model)
        for index, path in enumerate(blocks):
            block = sam.model.get_submodule(path)
            replace_method(stack, block, "forward", partial(kept.run, block.forward, starts=index == 0))
        for unit in units:
            for operand, path in operand_taps(unit):
                module, meet = sam.model.get_submodule(path), partial(activation, unit, operand)
                if unit.kind == "product":
                    replace_method(stack, module, "forward", partial(_run_operand, anchor, meet))
                else:
                    meet_weight = partial(weight, unit, module)
                    replace_method(stack, module, "forward", partial(_run_layer, module, anchor, meet, meet_weight))
        yield


def _block_paths(sam: Sam) -> list[str]:
    return [call.path for part in _PARTS for call in chain_of(sam, part).calls]


class _Kept:
    """Runs blocks with gradients: keeps what the first ones save, and lets the others compute it again."""

    def __init__(self, model: nn.Module) -> None:
        self._free = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
        self._seen: set[int] = set()
        self._bytes = 0

    def run(self, forward: Callable[..., Any], *args: Any, starts: bool, **kwargs: Any) -> Any:
        """Run a block; the first one of a forward starts the count of bytes."""
        if starts:
            self._seen, self._bytes = set(self._free), 0
        if self._bytes >= _KEPT_BYTES:
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        with saved_tensors_hooks(self._count, _hand_back):
            return forward(*args, **kwargs)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._bytes += storage.nbytes()
        return tensor


def _hand_back(tensor: Tensor) -> Tensor:
    return tensor


def weight_gradient(module: nn.Module, values: Tensor, gradient: Tensor, *, groups: int) -> Tensor:
    """The gradient of a layer's weight.

    Args:
        module: linear or convolution.
        values: its input.
        gradient: of its output; may be in bfloat16.
        groups: parts of the leading axes that are kept apart; 1 for a convolution.

    Returns:
        [groups, elements of the weight].
    """
    if isinstance(module, nn.Conv2d):
        return _convolution_gradient(module, values, gradient, of_weight=True).reshape(1, -1)
    inputs = values.reshape(groups, -1, values.shape[-1])
    outputs = gradient.reshape(groups, -1, gradient.shape[-1])
    return multiply_roughly(outputs.transpose(1, 2), inputs).reshape(groups, -1)


def _run_operand(anchor: Tensor, meet: Callable[[Tensor, Tensor], None], values: Tensor) -> Tensor:
    out: Tensor = _Operand.apply(values, anchor, meet)  # type: ignore[no-untyped-call]
    return out


def _run_layer(
    module: nn.Module,
    anchor: Tensor,
    meet: Callable[[Tensor, Tensor], None],
    meet_weight: Callable[[Tensor, Tensor], None],
    values: Tensor,
) -> Tensor:
    out: Tensor = _Layer.apply(values, anchor, module, meet, meet_weight)  # type: ignore[no-untyped-call]
    return out


class _Operand(Function):
    """Hands an operand on, and shows its gradient on the way back. The anchor makes every result want a gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, anchor: Tensor, meet: Callable[[Tensor, Tensor], None]) -> Tensor:
        del anchor
        ctx.save_for_backward(values)
        ctx.meet = meet
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        ctx.meet(values, gradient)
        return gradient, None, None


class _Layer(Function):
    """A linear or convolution; shows the gradients of input and output on the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        anchor: Tensor,
        module: nn.Module,
        meet: Callable[[Tensor, Tensor], None],
        meet_weight: Callable[[Tensor, Tensor], None],
    ) -> Tensor:
        del anchor
        ctx.save_for_backward(values)
        ctx.module, ctx.meet, ctx.meet_weight = module, meet, meet_weight
        return _run_forward(module, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        if isinstance(ctx.module, nn.Linear):
            gradient = roughen(gradient, columns=ctx.module.in_features)
        input_gradient = _input_gradient(ctx.module, values, gradient)
        ctx.meet_weight(values, gradient)
        ctx.meet(values, input_gradient)
        return (input_gradient if ctx.needs_input_grad[0] else None), None, None, None, None


def _run_forward(module: nn.Module, values: Tensor) -> Tensor:
    if isinstance(module, nn.Linear):
        return apply_linear(module, values)
    # The forward of the class: that of the instance has called the function that calls this one.
    out: Tensor = type(module).forward(module, values)
    return out


def _input_gradient(module: nn.Module, values: Tensor, gradient: Tensor) -> Tensor:
    if isinstance(module, nn.Conv2d):
        return _convolution_gradient(module, values, gradient, of_weight=False)
    weight = module.weight
    assert isinstance(weight, Tensor)  # noqa: S101  (narrows the type of nn.Module's attribute)
    # torch multiplies a gradient with more axes row by row where it is not contiguous.
    return multiply_roughly(gradient.flatten(0, -2), weight).view_as(values)


def _convolution_gradient(module: nn.Conv2d, values: Tensor, gradient: Tensor, *, of_weight: bool) -> Tensor:
    gradients = torch.ops.aten.convolution_backward(
        gradient,
        values,
        module.weight,
        None,
        module.stride,
        module.padding,
        module.dilation,
        False,
        [0, 0],
        module.groups,
        [not of_weight, of_weight, False],
    )
    out: Tensor = gradients[1 if of_weight else 0]
    return out
