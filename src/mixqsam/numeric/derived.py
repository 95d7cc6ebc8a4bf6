"""Values that are computed from a module's tensors once, and again after one of them changed."""

import sys
from collections.abc import Callable, Iterable
from functools import update_wrapper
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")

# Functions → the same, called by `torch.compile` as they are.
_UNTRACED: dict[Callable[..., Any], Callable[..., Any]] = {}


class Derived(Generic[Value]):
    """A value that is kept as long as the tensors that it comes from stay as they are.

    A copied or pickled one is empty: what kernels prepared can be computed again, but not copied.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Value, tuple[Tensor, ...], tuple[tuple[int, int], ...]]] = []

    def get(self, tensors: Iterable[Tensor | None], make: Callable[[], Value]) -> Value:
        """The value, computed by `make` if a tensor was replaced, moved or written to since the last call.

        Writing through `tensor.data` is the one change that PyTorch does not count.
        """
        now = tuple(tensor for tensor in tensors if tensor is not None)
        states = tuple(_state(tensor) for tensor in now)
        if self._kept:
            value, before, kept = self._kept[0]
            if states == kept and all(one is other for one, other in zip(now, before, strict=True)):
                return value
        value = make()
        self._kept = [(value, now, states)]
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return (Derived, ())


def _state(tensor: Tensor) -> tuple[int, int]:
    """Changes with every write that PyTorch counts, and with the place of the data."""
    return 0 if tensor.is_inference() else tensor._version, tensor.data_ptr()


def keeping_types(move: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of `Module._apply` that moves tensors, but leaves their types.

    Scales and whole numbers say something else in another type, so `model.to(torch.bfloat16)` leaves them alone.
    """

    def moved(tensor: Tensor) -> Tensor:
        found = move(tensor)
        return found if found.dtype == tensor.dtype else tensor.to(found.device)

    return moved


def _in_float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def exact(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a module's forward as one that neither autocast nor `torch.compile` may change.

    What it computes are whole numbers, which a shorter type would round. A module whose attribute `is_exact` is False
    computes in the type of autocast.
    """

    def run(module: Any, *values: Any, **named: Any) -> Any:
        compiler = sys.modules.get("torch._dynamo")
        if compiler is None:
            return in_float(module, *values, **named)
        if in_float not in _UNTRACED:
            # Importing the compiler only to say so would take seconds.
            _UNTRACED[in_float] = torch.compiler.disable(in_float)
            compiler.eval_frame.skip_code(run.__code__)
        return _UNTRACED[in_float](module, *values, **named)

    def in_float(module: Any, *values: Any, **named: Any) -> Any:
        device = next(value.device.type for value in (*values, *named.values()) if isinstance(value, Tensor))
        if not torch.is_autocast_enabled(device) or not getattr(module, "is_exact", True):
            return forward(module, *values, **named)
        with torch.autocast(device, enabled=False):
            return forward(module, *map(_in_float, values), **{name: _in_float(v) for name, v in named.items()})

    update_wrapper(run, forward)
    # Without it, the compiler would trace into the function from its caller.
    run._torchdynamo_disable = True  # type: ignore[attr-defined]
    return run
