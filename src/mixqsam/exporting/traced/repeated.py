"""Parts of a decoder that give the same for one mask and for three: they are traced once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

_Calls = list[Sequence[Any]]


def find_repeated(model: nn.Module, runs: Sequence[Callable[[], object]]) -> list[str]:
    """Find the outermost modules that each run calls once, with the same arguments.

    Args:
        model: what the runs compute with.
        runs: passes to compare.

    Returns:
        Names of the modules.
    """
    calls: dict[str, _Calls] = {}
    with ExitStack() as stack:
        for name, module in model.named_modules():
            hook = partial(_remember, calls.setdefault(name, []))
            handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        for run in runs:
            run()
    found: list[str] = []
    for name, each in calls.items():
        if len(each) == len(runs) and all(_same(each[0], one) for one in each[1:]) and not _is_inside(name, found):
            found.append(name)
    return found


@contextmanager
def computed_once(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let every call of a module give what its first call gave."""
    for module in modules:
        module.forward = partial(_give_first, module.forward, [])
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _remember(calls: _Calls, _: nn.Module, arguments: Any, named: Any) -> None:
    calls.append(tree_leaves((arguments, named)))


def _same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(map(_equal, first, second))


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    return type(first) is type(second) and bool(first == second)


def _is_inside(name: str, outer: Sequence[str]) -> bool:
    return any(name.startswith(f"{one}.") for one in outer)


def _give_first(compute: Callable[..., Any], results: list[Any], *arguments: Any, **named: Any) -> Any:
    if not results:
        results.append(compute(*arguments, **named))
    return results[0]
