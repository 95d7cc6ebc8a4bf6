"""Which normalisations only units read, so that factors of their channels can go into those units' weights."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mixqsam.families import family_of
from mixqsam.families.family import Family
from mixqsam.sam.calls import leaves
from mixqsam.sam.trace import make_without_weights, trace

# Functions that move channels' values and do not change them, so that the last axis stays the channels.
_MOVES = {"reshape", "view", "flatten", "contiguous", "clone", "unsqueeze", "squeeze", "roll"}
_PERMUTES = {"permute", "transpose"}


@dataclass(frozen=True)
class ReadNorm:
    """A layer normalisation whose output only linears and convolutions among the units read.

    Attributes:
        name: path of the normalisation.
        units: linears and convolutions, in order.
        is_padded: zeros are put beside its output before a unit reads it, so a constant that is added to the output
            does not reach every value that the unit sees.
    """

    name: str
    units: tuple[str, ...]
    is_padded: bool


def find_read_norms(config: Any) -> tuple[ReadNorm, ...]:
    """Find the encoder's normalisations that only units read, in order.

    One forward without weights is watched: a result belongs to a normalisation as long as its rows are only moved, cut
    into windows or padded.

    Raises:
        ModelError: the configuration's family is unknown.
    """
    return _find(family_of(config), config.to_json_string())


@lru_cache(maxsize=8)
def _find(family: Family, values: str) -> tuple[ReadNorm, ...]:
    config, model = make_without_weights(family, values)
    # A depthwise convolution has a grid for each channel already.
    layers = [u for u in trace(config).units if u.part == "encoder" and u.kind != "product" and u.role != "depthwise"]
    size = family.framing.image_size(config)
    readers = _Readers(model, {unit.name for unit in layers})
    with torch.no_grad(), torch.device("meta"), readers:
        family.encode(model, torch.empty(1, 3, size, size))
    return readers.found()


class _Readers(TorchFunctionMode):
    """Follows the outputs of normalisations to the modules that read them."""

    def __init__(self, model: nn.Module, layers: set[str]) -> None:
        super().__init__()
        self._model, self._layers = model, layers
        self._owners: dict[int, tuple[str, bool]] = {}
        self._held: list[Tensor] = []  # so that no identity is used twice
        self._units: dict[str, list[str]] = {}
        self._padded: set[str] = set()
        self._others: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> "_Readers":
        for name, module in self._model.named_modules():
            if isinstance(module, nn.LayerNorm) and module.bias is not None and module.bias.dim() == 1:
                self._stack.callback(module.register_forward_hook(self._own(name)).remove)
            elif name in self._layers:
                self._stack.callback(module.register_forward_pre_hook(self._read(name)).remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stack.close()

    def found(self) -> tuple[ReadNorm, ...]:
        """Those that nothing but units has read."""
        return tuple(
            ReadNorm(name, tuple(units), name in self._padded)
            for name, units in self._units.items()
            if name not in self._others
        )

    def _own(self, name: str) -> Any:
        def own(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            del module, args
            self._mark(output, name, is_padded=False)

        return own

    def _read(self, unit: str) -> Any:
        def read(module: nn.Module, args: tuple[Any, ...]) -> None:
            owner = self._owners.get(id(args[0]))
            if owner is None:
                return
            name, is_padded = owner
            norm = self._model.get_submodule(name)
            assert isinstance(norm, nn.LayerNorm)  # noqa: S101  (only such own anything)
            self._units.setdefault(name, []).append(unit)
            if is_padded or (isinstance(module, nn.Conv2d) and any(module.padding)):
                self._padded.add(name)
            if _input_channels(module) != norm.normalized_shape[0]:
                self._others.add(name)

        return read

    def _mark(self, tensor: Tensor, name: str, *, is_padded: bool) -> None:
        self._owners[id(tensor)] = (name, is_padded)
        self._held.append(tensor)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        for tensor in leaves((args, dict(kwargs or {}))):
            owner = self._owners.get(id(tensor))
            if owner is None or name in {"__get__", "size", "dim", "numel"}:
                continue
            if isinstance(result, Tensor) and (name in _MOVES | _PERMUTES or name == "pad"):
                self._mark(result, owner[0], is_padded=owner[1] or name == "pad")
            elif name not in {"linear", "conv2d"}:
                self._others.add(owner[0])
        return result


def _input_channels(layer: nn.Module) -> int:
    """Channels that each row of a layer's weight sees; fewer than the input has where a convolution has groups."""
    weight = layer.weight
    assert isinstance(weight, Tensor)  # noqa: S101  (narrows the type of nn.Module's attribute)
    return weight.shape[1]
