"""How blocks are called: arguments with the tensors taken out, and which tensors flow from block to block."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mixqsam.plan import Part

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
        path: of its module.
        args, kwargs: its arguments, slots in place of tensors.
        entries: values that no block before it had or gave: code between the blocks makes them.
        output: what it gives, slots in place of tensors.
        read: the values of the output that anything reads.
    """

    path: str
    args: Any
    kwargs: Any
    entries: tuple[str, ...]
    output: Any
    read: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that it takes, in order; one may come twice."""
        return tuple(slot.value for slot in leaves((self.args, self.kwargs), Slot))

    @property
    def results(self) -> tuple[str, ...]:
        """The values that it gives, in order."""
        return tuple(slot.value for slot in leaves(self.output, Slot))

    def run(self, model: nn.Module, state: State) -> dict[str, Tensor]:
        """Call the block's module; returns its results."""
        args, kwargs = put_together(self.args, state), put_together(self.kwargs, state)
        return self.named(model.get_submodule(self.path)(*args, **kwargs))

    def named(self, output: Any) -> dict[str, Tensor]:
        """The tensors of an output, by value."""
        return dict(zip(self.results, leaves(output), strict=True))


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

    def follows(self, index: int) -> bool:
        """Whether block `index` takes only what blocks before it had or gave."""
        return not self.calls[index].entries

    def runs_through(self, index: int) -> bool:
        """Whether blocks `index`, … and the part's outputs follow from what is known before block `index`."""
        return None not in self.outputs.values() and all(map(self.follows, range(index + 1, len(self.calls))))
