"""Skip an attention that does not change any more: only its last projection is run, on inputs that were kept.

Layers of a block are rounded one after the other, and each is shown its input by running the block again. Once the
projection's input is known, nothing before it has to be computed again.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from mixqsam.plan import Unit
from mixqsam.quantization.reconstruction.states import States
from mixqsam.sam.calls import Slot, leaves, put_together, take_apart
from mixqsam.sam.hooks import replace_method
from mixqsam.sam.replay import Block

_STREAM, _INPUT, _OUTPUT = "projection", "input", "output"


class Shortcut:
    """What is known of the attention of one block.

    Args:
        states: where the projection's inputs are kept.
        block: the block; without exactly one attention, and where code runs behind it, nothing is skipped.
        units: of the block, that are quantized.
    """

    def __init__(self, states: States, block: Block, units: Sequence[Unit]) -> None:
        last = [unit for unit in units if unit.role == "projection" and unit.attention is not None]
        self._unit = last[0] if len(last) == 1 and block.chain.part == "encoder" and block.leads_on() else None
        self._states, self._kept, self._template = states, 0, None

    @contextmanager
    def learned(self, model: nn.Module) -> Iterator[None]:
        """While this is open, passes of the float model show where the projection's output goes."""
        if self._unit is None or self._unit.attention is None:
            yield
            return
        projected: list[Tensor] = []

        def see_projection(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            del module, args
            projected[:] = [output]

        def see_attention(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            del module, args
            given = list(leaves(output))
            is_all = len(given) == len(projected) == 1 and given[0] is projected[0]
            self._template = take_apart(output, _name_output) if is_all else None

        with ExitStack() as stack:
            for path, hook in ((self._unit.name, see_projection), (self._unit.attention, see_attention)):
                stack.callback(model.get_submodule(path).register_forward_hook(hook).remove)
            yield
        projected.clear()

    def keep(self, name: str, values: Tensor, index: int) -> None:
        """Keep the input of a layer of the draft, if it is the projection's."""
        if self._template is not None and self._unit is not None and name == self._unit.name:
            self._states.put(_STREAM, index, {_INPUT: values})
            self._kept += 1

    @contextmanager
    def taken(self, model: nn.Module, indices: Iterator[int]) -> Iterator[None]:
        """While this is open, the draft skips the attention, if the projection's input is known of all images.

        Args:
            model: the draft.
            indices: of the images that pass, one after the other.
        """
        if self._unit is None or self._unit.attention is None or self._kept < self._states.count:
            yield
            return
        projection, attention = (model.get_submodule(path) for path in (self._unit.name, self._unit.attention))

        def forward(*args: Any, **kwargs: Any) -> Any:
            del args, kwargs
            values = self._states.get(_STREAM, next(indices))[_INPUT]
            return put_together(self._template, {_OUTPUT: projection(values)})

        with ExitStack() as stack:
            replace_method(stack, attention, "forward", forward)
            yield


def _name_output(tensor: Tensor, place: str) -> Slot:
    del tensor, place
    return Slot(_OUTPUT)
