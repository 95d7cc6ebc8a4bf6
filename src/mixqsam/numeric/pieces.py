"""Attention computed in pieces, so that its logits need not fit into memory.

A global attention of SAM-B at 1024 pixels has 201 million logits (805 MB); here a few rows of queries at a time
are carried through product, softmax and product, so the peak is `PIECE_BYTES` whatever the image size.

Gradients need the logits, their softmax and what quantizes it. Where a piece does not hold them all, the backward pass
computes them again: `SLICE_BYTES` at a time, which stay in the processor's cache.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from mixqsam.numeric.modules import Product

PIECE_BYTES = 64 << 20
SLICE_BYTES = 8 << 20

# Groups and rows.
Place = tuple[slice, slice]


@dataclass(frozen=True)
class Mixing:
    """How values are mixed.

    Attributes:
        weigh: of some groups and rows, what belongs to queries (q first) and k → softmax of the logits.
        product: of the softmax and v; it quantizes the softmax.
        step: of v, which is in steps.
    """

    weigh: Callable[..., Tensor]
    product: Product
    step: float

    def weights(self, by_query: Sequence[Tensor], key: Tensor) -> tuple[Tensor, float]:
        """The quantized softmax, and what its product with v has to be multiplied by."""
        weights, step = self.product.operand("left", self.weigh(*by_query, key))
        return weights, step * self.step

    def mix(self, by_query: Sequence[Tensor], key: Tensor, value: Tensor) -> Tensor:
        """Mixed values of some groups and rows."""
        weights, step = self.weights(by_query, key)
        return times(self.product(weights, value), step)


@dataclass(frozen=True)
class Cut:
    """Where attention is cut: `piece_groups` groups and `piece_rows` rows at a time, one group after the other.

    That is their order in memory, so that random numbers drawn for one piece after the other are those of the whole.
    """

    groups: int
    rows: int
    piece_groups: int
    piece_rows: int

    def places(self) -> Iterator[Place]:
        """Groups and rows of each piece."""
        for group in range(0, self.groups, self.piece_groups):
            for row in range(0, self.rows, self.piece_rows):
                yield slice(group, group + self.piece_groups), slice(row, row + self.piece_rows)

    def take(self, tensor: Tensor, place: Place) -> Tensor:
        """A piece of a tensor [groups, n, …], whose n is a multiple of the rows."""
        (groups, rows), each = place, tensor.shape[1] // self.rows
        return tensor[groups, rows.start * each : rows.stop * each]

    def take_all(self, tensors: Sequence[Tensor], place: Place, *, by_query: int) -> list[Tensor]:
        """Pieces of what belongs to queries, which comes first; k and v of the groups; the rest as it is."""
        by_key = by_query + 2
        return [
            *(self.take(one, place) for one in tensors[:by_query]),
            *(one[place[0]] for one in tensors[by_query:by_key]),
            *tensors[by_key:],
        ]


def mix_in_pieces(mixing: Mixing, by_query: Sequence[Tensor], key: Tensor, value: Tensor, *, rows: int) -> Tensor:
    """Mix values of an attention whose logits need not fit into memory.

    Args:
        mixing: how.
        by_query: q [groups, n, c], and others [groups, rows, …].
        key: k, [groups, m, c].
        value: v, [groups, m, c'].
        rows: into which the queries can be cut.

    Returns:
        [groups, n, c'].
    """
    groups, queries, _ = by_query[0].shape
    row_bytes = 4 * (queries // rows) * key.shape[1]
    piece_rows = max(1, PIECE_BYTES // (groups * row_bytes))
    learned = [one for one in mixing.product.left.parameters() if one.requires_grad]
    tensors = (*by_query, key, value, *learned)
    if piece_rows < rows and wants_gradients(*tensors) and not torch.is_autocast_enabled(key.device.type):
        cut = Cut(groups, rows, max(1, SLICE_BYTES // (rows * row_bytes)), max(1, SLICE_BYTES // row_bytes))
        mixed: Tensor = _Mix.apply(mixing, cut, len(by_query), *tensors)  # type: ignore[no-untyped-call]
        return mixed
    cut = Cut(groups, rows, groups, piece_rows)
    return torch.cat(
        [mixing.mix([cut.take(one, place) for one in by_query], key, value) for place in cut.places()], dim=1
    )


class _Mix(Function):
    """`Mixing.mix` in pieces that leave nothing behind; the way back computes each again, with the same draws."""

    @staticmethod
    def forward(ctx: Any, mixing: Mixing, cut: Cut, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.mixing, ctx.cut, ctx.count = mixing, cut, count
        ctx.states = [generator.get_state() for generator in mixing.product.generators]
        mixed = tensors[count + 1].new_empty(*tensors[0].shape[:2], tensors[count + 1].shape[2])
        for place in cut.places():
            *by_query, key, value = cut.take_all(tensors, place, by_query=count)[: count + 2]
            cut.take(mixed, place).copy_(mixing.mix(by_query, key, value))
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mixing, cut, count = ctx.mixing, ctx.cut, ctx.count
        tensors, gradient = ctx.saved_tensors, gradient.contiguous()
        totals = [torch.zeros_like(one) for one in tensors]
        with replayed(mixing.product.generators, ctx.states):
            for place in cut.places():
                inputs = cut.take_all(tensors, place, by_query=count)
                found = _gradients(mixing, inputs, cut.take(gradient, place), by_query=count)
                for total, one in zip(cut.take_all(totals, place, by_query=count), found, strict=True):
                    total.add_(one)
        wanted = zip(totals, ctx.needs_input_grad[3:], strict=True)
        return None, None, None, *(total if wants else None for total, wants in wanted)


def _gradients(mixing: Mixing, inputs: Sequence[Tensor], gradient: Tensor, *, by_query: int) -> list[Tensor]:
    """Gradients of a piece's inputs: what belongs to queries, k, v, and parameters that quantize the softmax."""
    value, parameters, multiply = inputs[by_query + 1], inputs[by_query + 2 :], mixing.product.multiply
    with torch.enable_grad():
        leaves = [one.detach().requires_grad_() for one in inputs[: by_query + 1]]
        weights, step = mixing.weights(leaves[:-1], leaves[-1])
    gradient = gradient if step == 1 else gradient * step
    # A quantizer that is switched off does not read its parameters.
    found = torch.autograd.grad(
        weights, [*leaves, *parameters], multiply(gradient, value.transpose(1, 2)), materialize_grads=True
    )
    return [*found[: by_query + 1], multiply(weights.detach().transpose(1, 2), gradient), *found[by_query + 1 :]]


@contextmanager
def replayed(generators: Sequence[torch.Generator], states: Sequence[Tensor]) -> Iterator[None]:
    """Generators draw from given states; afterwards they are as they were."""
    before = [generator.get_state() for generator in generators]
    try:
        _set_states(generators, states)
        yield
    finally:
        _set_states(generators, before)


def _set_states(generators: Sequence[torch.Generator], states: Sequence[Tensor]) -> None:
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


def times(values: Tensor, step: float) -> Tensor:
    """Values times a step, in place; untouched where the step is 1."""
    return values if step == 1 else values.mul_(step)


def wants_gradients(*tensors: Tensor) -> bool:
    """Whether what is computed from the tensors gets a graph for a backward pass."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
