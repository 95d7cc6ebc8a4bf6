"""Look at what passes through a model's modules, or change it, for as long as a context is open."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

# What is done with a module's inputs and output.
Watcher = Callable[[tuple[Tensor, ...], Tensor], None]
# What is done with a module's inputs before it runs.
InputWatcher = Callable[[tuple[Tensor, ...]], None]
# Given a module, its inputs and its output, the output to use instead.
Alteration = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


@contextmanager
def watched(model: nn.Module, watchers: Mapping[str, Watcher]) -> Iterator[None]:
    """While this is open, each watcher sees the inputs and the output of its module.

    Args:
        model: the model.
        watchers: dotted path of a module → what watches it.
    """
    with ExitStack() as stack:
        for path, watcher in watchers.items():
            stack.callback(model.get_submodule(path).register_forward_hook(_show(watcher)).remove)
        yield


@contextmanager
def watched_before(model: nn.Module, watchers: Mapping[str, InputWatcher]) -> Iterator[None]:
    """While this is open, each watcher sees the inputs of its module before the module runs.

    Args:
        model: the model.
        watchers: dotted path of a module → what watches it; what it raises ends the pass.
    """
    with ExitStack() as stack:
        for path, watcher in watchers.items():
            stack.callback(model.get_submodule(path).register_forward_pre_hook(_show_inputs(watcher)).remove)
        yield


@contextmanager
def altered(model: nn.Module, alterations: Mapping[str, Alteration]) -> Iterator[None]:
    """While this is open, modules give what their alterations make of their outputs.

    Args:
        model: the model.
        alterations: dotted path of a module → what becomes of its output.
    """
    with ExitStack() as stack:
        for path, alteration in alterations.items():
            stack.callback(model.get_submodule(path).register_forward_hook(alteration).remove)
        yield


def replace_method(stack: ExitStack, module: nn.Module, name: str, function: Callable[..., Any]) -> None:
    """Put a function in the place of a module's method, such as `forward`, until the stack is closed."""
    # An attribute of the instance comes before the method of its class, and is all that has to go again.
    module.__dict__[name] = function
    stack.callback(module.__dict__.pop, name)


def _show(watcher: Watcher) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del module
        watcher(inputs, output)

    return hook


def _show_inputs(watcher: InputWatcher) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del module
        watcher(inputs)

    return hook
