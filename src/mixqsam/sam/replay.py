"""Blocks run from the arguments that they were called with: no list says how to call them.

A forward with hooks on the blocks gives the arguments (`record`), and what a block gives is what the next one takes
wherever the trace found it to be the same tensor.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from mixqsam.errors import ModelError
from mixqsam.families.family import Maps
from mixqsam.plan import Part
from mixqsam.sam.calls import Call, Chain, ReachedError, State, leaves, run_until
from mixqsam.sam.load import Sam
from mixqsam.sam.trace import trace


@dataclass(frozen=True)
class Block:
    """A piece of the model: one block, or several one after the other.

    Attributes:
        name: path of its module; of several, of the first with the number of the last.
        units: its units, in the order in which the data flows.
        chain: the blocks of its part.
        start, stop: which of them it is.
        is_global: its last attention spans the whole image.
    """

    name: str
    units: tuple[str, ...]
    chain: Chain
    start: int
    stop: int
    is_global: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The values that it gives and that something reads."""
        return self.chain.calls[self.stop - 1].read

    def run(self, sam: Sam, state: State) -> State:
        """Run the block of a model, float or quantized; returns the state with the block's results."""
        values = dict(state)
        for call in self.chain.calls[self.start : self.stop]:
            values |= call.run(sam.model, values)
        return values

    def leads_on(self) -> bool:
        """Whether all that the next block (or the part's outputs) takes is known after this one."""
        if self.stop < len(self.chain.calls):
            return self.chain.follows(self.stop)
        return None not in self.chain.outputs.values()

    def after(self, values: State) -> State:
        """Of the values after this block, those that are still needed."""
        return {value: values[value] for value in self.chain.live(self.stop)}


def chain_of(sam: Sam, part: Part) -> Chain:
    """How a part's blocks are called."""
    found = trace(sam.config)
    return found.encoder if part == "encoder" else found.decoder


def blocks_of(sam: Sam, part: Part) -> list[Block]:
    """The blocks of a part, in order."""
    chain, names = chain_of(sam, part), [unit.name for unit in trace(sam.config).units]
    spans = {block.path: block.is_global for block in sam.family.blocks(sam.config)}
    return [
        Block(call.path, _within(names, call.path), chain, index, index + 1, is_global=spans[call.path])
        for index, call in enumerate(chain.calls)
    ]


def _within(names: Sequence[str], path: str) -> tuple[str, ...]:
    return tuple(name for name in names if name == path or name.startswith(f"{path}."))


def stages(blocks: Sequence[Block]) -> list[Block]:
    """Blocks joined up to a global-attention block each; what follows the last one stays apart.

    Blocks between which other code runs are not joined.
    """
    found: list[Block] = []
    waiting: list[Block] = []
    for block in blocks:
        waiting.append(block)
        if block.is_global:
            found += _join(waiting)
            waiting = []
    return found + waiting


def _join(blocks: Sequence[Block]) -> list[Block]:
    if len(blocks) == 1 or not all(block.leads_on() for block in blocks[:-1]):
        return list(blocks)
    first, last = blocks[0], blocks[-1]
    name = f"{first.name}-{last.name.rpartition('.')[2]}"
    units = tuple(unit for block in blocks for unit in block.units)
    return [replace(first, name=name, units=units, stop=last.stop, is_global=True)]


def record(
    model: nn.Module, chain: Chain, forward: Callable[[], Any], *, until: int | None = None
) -> tuple[dict[str, Tensor], Any]:
    """Run a forward and take down what flows between blocks.

    Args:
        model: float or quantized.
        chain: whose blocks are watched.
        forward: runs the model.
        until: the block before which the forward stops, and only what is live there is taken down; None for all of it.

    Returns:
        Values by name, and what the forward gave (None if it was stopped).
    """
    wanted = None if until is None else chain.live(until)
    values: dict[str, Tensor] = {}

    def take(names: Sequence[str], structure: Any) -> None:
        found = zip(names, leaves(structure), strict=True)
        values.update((name, tensor) for name, tensor in found if wanted is None or name in wanted)

    with ExitStack() as stack:
        for index, call in enumerate(chain.calls):
            enter = partial(_take_arguments, call, take)
            called, giving = model.get_submodule(call.module), model.get_submodule(call.until)
            stack.callback(called.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(giving.register_forward_hook(partial(_take_output, call, take)).remove)
            if index == until:
                stack.callback(model.get_submodule(call.path).register_forward_pre_hook(_stop).remove)
        try:
            return values, forward()
        except ReachedError:
            return values, None


# Takes down tensors under the names of values.
_Take = Callable[[Sequence[str], Any], None]


def _take_arguments(call: Call, take: _Take, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    take(call.slots, (args, kwargs))


def _take_output(call: Call, take: _Take, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
    take(call.results, output)


def _stop(_module: nn.Module, _args: tuple[Any, ...]) -> None:
    raise ReachedError


def skip_to_maps(sam: Sam, block: Block, values: State) -> Maps:
    """From an encoder's block to the maps for the decoder, with as few blocks between as the shapes allow.

    A plain ViT's layers all have the shape that its neck takes, so all layers between are skipped (SAQ-SAM, methods
    §3). Where the shape changes on the way, what changes it is run.

    Raises:
        ModelError: code between the blocks that remain has to run too.
    """
    chain, start = block.chain, block.stop
    if not block.leads_on() or not chain.runs_through(min(start, len(chain.calls) - 1)):
        raise ModelError(f"Behind {block.name} blocks do not follow one from the other; choose another recipe.")
    values = dict(values)
    if len(block.outputs) == 1:
        output = block.outputs[0]
        for index in range(len(chain.calls) - 1, start - 1, -1):
            taken = chain.calls[index].inputs
            if len(taken) == 1 and chain.shapes[taken[0]] == chain.shapes[output]:
                values[taken[0]], start = values[output], index
                break
    for call in chain.calls[start:]:
        values |= call.run(sam.model, values)
    return output_maps(chain, values)


def output_maps(chain: Chain, values: State) -> Maps:
    """The part's maps, of a chain that gives them all."""
    return {name: values[value] for name, value in chain.outputs.items() if value is not None}


def image_tokens(sam: Sam, maps: Maps, prompts: Maps) -> Tensor:
    """The image's tokens after they have met the prompts in the decoder; gradients flow back to the maps."""
    path, index = sam.family.image_tokens
    forward = partial(sam.family.decode, sam.model, maps, prompts, multimask=False)
    tokens: Tensor = run_until(sam.model, path, forward)[index]
    return tokens
