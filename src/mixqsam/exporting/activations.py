"""Activation functions as nodes, by the names that a configuration gives them."""

from collections.abc import Callable, Mapping

from mixqsam.errors import InputError
from mixqsam.exporting.graph import Graph

Activation = Callable[[Graph, str], str]


def _gelu(graph: Graph, value: str) -> str:
    return graph.add("Gelu", value)


def _gelu_tanh(graph: Graph, value: str) -> str:
    return graph.add("Gelu", value, approximate="tanh")


def _quick_gelu(graph: Graph, value: str) -> str:
    return graph.add("Mul", value, graph.add("Sigmoid", graph.add("Mul", value, graph.constant(1.702))))


def _silu(graph: Graph, value: str) -> str:
    return graph.add("Mul", value, graph.add("Sigmoid", value))


def _relu_squared(graph: Graph, value: str) -> str:
    positive = graph.add("Relu", value)
    return graph.add("Mul", positive, positive)


def _relu6(graph: Graph, value: str) -> str:
    return graph.add("Clip", value, graph.constant(0.0), graph.constant(6.0))


def _leaky_relu(graph: Graph, value: str) -> str:
    return graph.add("LeakyRelu", value, alpha=0.01)


def _simple(kind: str) -> Activation:
    return lambda graph, value: graph.add(kind, value)


# transformers' name → nodes.
ACTIVATIONS: Mapping[str, Activation] = {
    **dict.fromkeys(("gelu", "gelu_python"), _gelu),
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh"), _gelu_tanh),
    **dict.fromkeys(("silu", "swish"), _silu),
    "hardswish": _simple("HardSwish"),
    "leaky_relu": _leaky_relu,
    "linear": _simple("Identity"),
    "mish": _simple("Mish"),
    "quick_gelu": _quick_gelu,
    "relu": _simple("Relu"),
    "relu2": _relu_squared,
    "relu6": _relu6,
    "sigmoid": _simple("Sigmoid"),
    "tanh": _simple("Tanh"),
}


def find_activation(name: str, *, field: str) -> Activation:
    """The nodes of an activation function.

    Args:
        name: as transformers calls it.
        field: of the configuration, for the error.

    Raises:
        InputError: it cannot be exported; the message names the field.
    """
    if name not in ACTIVATIONS:
        raise InputError(f"{field} is {name!r}, which cannot be exported; expected one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]
