"""How blocks are called: arguments with the tensors taken out, and which tensors flow from block to block."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mixqsam.plan import Part
from mixqsam.sam.hooks import replace_method

# Value → tensor: what flows between blocks, for one image or several. A value is named after the block that it was
# first seen at: `path>i` is its i-th result, `path<place` an argument that no block before it had or gave.
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Slot:
    """The place of a tensor among arguments.

    Attributes:
        value: the name of what is put there.
    """

    value: str


def take_apart(structure: Any, name: Callable[[Tensor, str], Slot], *, place: str = "") -> Any:
    """The same lists, tuples and dicts with slots in place of tensors; `name` gives the slot of a tensor at a place."""
    if isinstance(structure, Tensor):
        return name(structure, place)
    prefix = f"{place}." if place else ""
    if isinstance(structure, list | tuple):
        parts = [take_apart(part, name, place=f"{prefix}{index}") for index, part in enumerate(structure)]
        return tuple(parts) if isinstance(structure, tuple) else parts
    if isinstance(structure, Mapping):
        return {key: take_apart(part, name, place=f"{prefix}{key}") for key, part in structure.items()}
    return structure


def put_together(template: Any, state: State) -> Any:
    """The inverse of `take_apart`.

    Raises:
        KeyError: the state lacks a value.
    """
    if isinstance(template, Slot):
        return state[template.value]
    if isinstance(template, list | tuple):
        parts = [put_together(part, state) for part in template]
        return tuple(parts) if isinstance(template, tuple) else parts
    if isinstance(template, Mapping):
        return {key: put_together(part, state) for key, part in template.items()}
    return template


def leaves(structure: Any, kind: type[Any] = Tensor) -> Iterator[Any]:
    """The tensors (or slots) of a structure, in order."""
    if isinstance(structure, kind):
        yield structure
    elif isinstance(structure, list | tuple):
        for part in structure:
            yield from leaves(part, kind)
    elif isinstance(structure, Mapping):
        for part in structure.values():
            yield from leaves(part, kind)


@dataclass(frozen=True)
class Call:
    """The call of one block.

    Attributes:
        path: of the block's module.
        module: what is called: the block's module, or the one around it that the block is the end of.
        until: what gives the output: the same, or a module behind the block.
        args, kwargs: the module's arguments, slots in place of tensors.
        entries: values that no block before it had or gave: code between the blocks makes them.
        output: what it gives, slots in place of tensors.
        read: the values of the output that anything reads.
        skips: calls of the blocks within the module that lie before it and are not computed again.
    """

    path: str
    module: str
    until: str
    args: Any
    kwargs: Any
    entries: tuple[str, ...]
    output: Any
    read: tuple[str, ...] = ()
    skips: tuple["Call", ...] = ()

    @property
    def slots(self) -> tuple[str, ...]:
        """The values among the module's arguments, in order; one may come twice."""
        return tuple(slot.value for slot in leaves((self.args, self.kwargs), Slot))

    @property
    def inputs(self) -> tuple[str, ...]:
        """All values that it takes: arguments, and what the last of the skipped blocks gives."""
        return self.slots + (self.skips[-1].read if self.skips else ())

    @property
    def results(self) -> tuple[str, ...]:
        """The values that it gives, in order."""
        return tuple(slot.value for slot in leaves(self.output, Slot))

    def run(self, model: nn.Module, state: State) -> dict[str, Tensor]:
        """Run the block; returns its results."""
        args, kwargs = put_together(self.args, state), put_together(self.kwargs, state)
        forward = partial(model.get_submodule(self.module), *args, **kwargs)
        if self.until == self.module:
            output = forward()
        else:
            with skipped(model, self.skips, state):
                output = run_until(model, self.until, forward)
        return dict(zip(self.results, leaves(output), strict=True))


class ReachedError(Exception):
    """A forward came to where it is to stop."""


def run_until(model: nn.Module, path: str, forward: Callable[[], object]) -> Any:
    """What the module at a path gives in a forward, which stops there."""
    seen: list[Any] = []

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del module, args
        seen.append(output)
        raise ReachedError

    handle = model.get_submodule(path).register_forward_hook(leave)
    try:
        forward()
    except ReachedError:
        pass
    finally:
        handle.remove()
    return seen[0]


@contextmanager
def skipped(model: nn.Module, calls: Sequence[Call], values: State) -> Iterator[None]:
    """While this is open, blocks are not computed: they give what the values say.

    A value that is missing is a tensor without content, on the meta device: to hand it on is allowed, to compute with
    it is an error.
    """
    with ExitStack() as stack:
        for call in calls:
            known = {name: values.get(name, torch.empty(0, device="meta")) for name in call.results}
            given = put_together(call.output, known)
            replace_method(stack, model.get_submodule(call.path), "forward", partial(_give, given))
        yield


def _give(output: Any, *_: Any, **__: Any) -> Any:
    return output


@dataclass(frozen=True)
class Chain:
    """The blocks of one part of a model, in order.

    Attributes:
        part: which.
        calls: one for each block.
        outputs: map that the part gives → its value; None where code after the last block makes it.
        shapes: value → shape, for one image and one prompt.
    """

    part: Part
    calls: tuple[Call, ...]
    outputs: Mapping[str, str | None]
    shapes: Mapping[str, tuple[int, ...]]

    def live(self, index: int) -> frozenset[str]:
        """What has to be known before block `index` (or after the last one) to run it and all after it."""
        needed = {value for value in self.outputs.values() if value is not None}
        for call in reversed(self.calls[index:]):
            needed = (needed - set(call.results)) | set(call.inputs)
            # What code between blocks makes later is not known yet.
            needed -= set(call.entries) if call is not self.calls[index] else set()
        return frozenset(needed)

    def leading_to(self, output: str, index: int) -> frozenset[str]:
        """Of the values before block `index` (or after the last one), those that a map of the part depends on."""
        needed = {self.outputs[output]}
        for call in reversed(self.calls[index:]):
            if needed & set(call.results):
                needed = (needed - set(call.results)) | set(call.inputs)
        return frozenset(value for value in needed if value is not None)

    def follows(self, index: int) -> bool:
        """Whether block `index` takes only what blocks before it had or gave."""
        return not self.calls[index].entries

    def runs_through(self, index: int) -> bool:
        """Whether blocks `index`, … and the part's outputs follow from what is known before block `index`."""
        return None not in self.outputs.values() and all(map(self.follows, range(index + 1, len(self.calls))))
