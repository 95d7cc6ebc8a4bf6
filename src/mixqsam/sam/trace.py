"""One box-prompted forward of a model without weights: its units in order, their costs, and how blocks are called."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mixqsam.errors import ModelError
from mixqsam.families import family_of
from mixqsam.families.family import BlockPath, Family, PromptTensors
from mixqsam.numeric.modules import Product
from mixqsam.plan import Kind, Part, Role, Unit
from mixqsam.sam.calls import Call, Chain, Slot, leaves, take_apart
from mixqsam.sam.rest import rest_of, stored_bytes

_IN_ATTENTION: tuple[Role, ...] = ("query-key-value", "query", "key", "value", "scores", "mixing", "projection")


@dataclass(frozen=True)
class Trace:
    """What one forward says of an architecture.

    Attributes:
        units: in the order in which the data flows; the decoder's multiply-adds are for one box.
        float_bytes, compact_bytes: of what belongs to no unit, see `Costs`.
        encoder, decoder: how their blocks are called, and with what of each other's results.
    """

    units: tuple[Unit, ...]
    float_bytes: int
    compact_bytes: int
    encoder: Chain
    decoder: Chain


def trace(config: Any) -> Trace:
    """Trace the architecture of a configuration.

    What is counted is what runs: windows include their padding.

    Raises:
        ModelError: the configuration's family is unknown, or does not say the role or the block of a unit.
    """
    return _trace(family_of(config), config.to_json_string())


def make_without_weights(family: Family, values: str) -> tuple[Any, nn.Module]:
    """A configuration and its prepared model on torch's meta device.

    Args:
        family: of the model.
        values: the configuration's own text, so that what is cached under it cannot be changed from outside.
    """
    config = family.config.from_dict(json.loads(values))
    with torch.device("meta"):
        model = family.model(config).eval()
        family.prepare(model)
    return config, model


@lru_cache(maxsize=8)
def _trace(family: Family, values: str) -> Trace:
    config, model = make_without_weights(family, values)
    ran: dict[str, int] = {}
    blocks = family.blocks(config)
    with torch.no_grad(), torch.device("meta"), _counted(model, family, ran):
        size = family.framing.image_size(config)
        pixels, boxes = torch.empty(1, 3, size, size), torch.empty(1, 1, 4)
        encoder = _Links(model, _of_part(family, blocks, "encoder"))
        maps = encoder.run(lambda: family.encode(model, pixels))
        decoder = _Links(model, _of_part(family, blocks, "decoder"))
        with encoder.watching():
            prompts = family.embed(model, PromptTensors(boxes, None, None))
            decoder.run(lambda: family.decode(model, maps, prompts, multimask=False))
    units = tuple(_describe(family, model, name, number) for name, number in ran.items())
    for unit in units:
        if not any(f"{unit.name}.".startswith(f"{block.path}.") for block in blocks):
            raise ModelError(f"The family {family.name!r} has no block with the unit {unit.name}.")
    shapes = [tuple(parameter.shape) for _, parameter in rest_of(model, set(ran))]
    return Trace(
        units,
        float_bytes=4 * sum(prod(shape) for shape in shapes),
        compact_bytes=sum(stored_bytes(shape) for shape in shapes),
        encoder=encoder.chain("encoder", outputs=maps),
        decoder=decoder.chain("decoder"),
    )


def _of_part(family: Family, blocks: Sequence[BlockPath], part: Part) -> list[BlockPath]:
    # A unit's name is asked for; a block is its prefix.
    return [block for block in blocks if family.part(f"{block.path}.") == part]


def _describe(family: Family, model: nn.Module, name: str, multiply_adds: int) -> Unit:
    part, module = family.part(name), model.get_submodule(name)
    assert part is not None  # noqa: S101  (only modules of a part are counted)
    role = _role(family, module, name)
    owner = name.rpartition(".")[0]
    # A projection may also stand beside an attention; only attentions have products.
    multiplies = any(isinstance(child, Product) for child in model.get_submodule(owner).children())
    attention = owner if role in _IN_ATTENTION and multiplies else None
    block = family.block(name)
    if isinstance(module, Product):
        return Unit(name, "product", part, 0, 0, multiply_adds, role, block, attention)
    kind: Kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
    weight = module.weight
    assert isinstance(weight, Tensor)  # noqa: S101  (narrows the type of nn.Module's attribute)
    return Unit(name, kind, part, weight.numel(), weight.shape[0], multiply_adds, role, block, attention)


def _role(family: Family, module: nn.Module, name: str) -> Role:
    if isinstance(module, nn.Conv2d):
        single = module.groups == module.in_channels == module.out_channels > 1
        return "depthwise" if single else "convolution"
    tail = name.rpartition(".")[2]
    if tail not in family.roles:
        raise ModelError(f"The family {family.name!r} does not say the role of the unit {name}.")
    return family.roles[tail]


@contextmanager
def _counted(model: nn.Module, family: Family, ran: dict[str, int]) -> Iterator[None]:
    """While this is open, `ran` gets the multiply-adds of every unit, in the order of their first calls."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d | Product) and family.part(name) is not None:
                stack.callback(module.register_forward_hook(_counter(ran, name)).remove)
        yield


def _counter(ran: dict[str, int], name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, Product):
            each = inputs[0].shape[-1]
        else:
            weight = module.weight
            assert isinstance(weight, Tensor)  # noqa: S101
            each = weight[0].numel()
        ran[name] = ran.get(name, 0) + output.numel() * each

    return add


_Before = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]


class _Links:
    """Watches blocks while a model runs, and says which of their arguments are which earlier tensors, by identity."""

    def __init__(self, model: nn.Module, blocks: Sequence[BlockPath]) -> None:
        self._model, self._blocks = model, blocks
        self._known: dict[int, str] = {}
        self._held: list[Tensor] = []  # so that no identity is used twice
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._read: set[str] = set()
        self._calls: list[Call] = []
        self._open: dict[str, tuple[Any, Any, tuple[str, ...]]] = {}
        self._around: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def run(self, forward: Callable[[], Any]) -> Any:
        """Run a forward and remember how it calls the blocks."""
        with ExitStack() as stack:
            for block in self._blocks:
                called, giving = block.within or block.path, block.until or block.path
                before = self._model.get_submodule(called).register_forward_pre_hook
                if block.within:
                    stack.callback(before(self._surround(block), with_kwargs=True).remove)
                    before = self._model.get_submodule(block.path).register_forward_pre_hook
                stack.callback(before(self._enter(block), with_kwargs=True).remove)
                leave = self._leave(block, called, giving)
                stack.callback(self._model.get_submodule(giving).register_forward_hook(leave).remove)
            stack.enter_context(self.watching())
            return forward()

    def watching(self) -> "_Reads":
        """While this is open, results of blocks that something reads are remembered."""
        return _Reads(self._known, self._read)

    def chain(self, part: Part, *, outputs: Mapping[str, Tensor] | None = None) -> Chain:
        """What was remembered; `outputs` are the maps that the part gives."""
        calls: list[Call] = []
        for call in self._calls:
            read = tuple(name for name in call.results if name in self._read) or call.results
            inside = tuple(one for one in calls if one.path.startswith(f"{call.module}."))
            calls.append(replace(call, read=read, skips=inside if call.until != call.module else ()))
        if len(calls) != len(self._blocks):
            odd = next(block.path for block in self._blocks if block.path not in {call.path for call in calls})
            raise ModelError(f"The block {odd} does not run.")
        maps = {name: self._known.get(id(tensor)) for name, tensor in (outputs or {}).items()}
        return Chain(part, tuple(calls), maps, self._shapes)

    def _surround(self, block: BlockPath) -> _Before:
        def surround(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            del module
            self._around[block.path] = (args, kwargs)

        return surround

    def _enter(self, block: BlockPath) -> _Before:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            del module
            args, kwargs = self._around.pop(block.path, (args, kwargs))
            entries: list[str] = []

            def name(tensor: Tensor, place: str) -> Slot:
                known = self._known.get(id(tensor))
                if known is None:
                    known = self._remember(tensor, f"{block.path}<{place}")
                    entries.append(known)
                self._read.add(known)
                return Slot(known)

            taken = take_apart(args, name), take_apart(kwargs, name)
            self._open[block.path] = (*taken, tuple(entries))

        return enter

    def _leave(self, block: BlockPath, called: str, giving: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            del module, args
            counted = count()

            def name(tensor: Tensor, place: str) -> Slot:
                del place
                return Slot(self._known.get(id(tensor)) or self._remember(tensor, f"{block.path}>{next(counted)}"))

            opened = self._open.pop(block.path)
            self._calls.append(Call(block.path, called, giving, *opened, take_apart(output, name)))

        return leave

    def _remember(self, tensor: Tensor, name: str) -> str:
        self._known[id(tensor)] = name
        self._held.append(tensor)
        self._shapes[name] = tuple(tensor.shape)
        return name


class _Reads(TorchFunctionMode):
    """Remembers which known tensors are an argument of any function of torch's."""

    def __init__(self, known: Mapping[int, str], read: set[str]) -> None:
        super().__init__()
        self._known, self._read = known, read

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Looking at a shape or a type is not reading.
        if getattr(func, "__name__", "") != "__get__":
            for tensor in leaves((args, kwargs or {})):
                if id(tensor) in self._known:
                    self._read.add(self._known[id(tensor)])
        return func(*args, **(kwargs or {}))
