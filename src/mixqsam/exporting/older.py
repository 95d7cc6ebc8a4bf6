"""Operators that older runtimes do not know, written with those that they know."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixqsam.exporting.graph import Graph

# LayerNormalization is an operator since then. ONNX Runtime reads both from 1.13 on.
OLDER_OPSET, OLDER_IR = 17, 8


def _gelu(graph: "Graph", value: str, *, approximate: str = "none") -> str:
    """x·Φ(x); runtimes join these nodes again."""
    half = graph.constant(0.5)
    if approximate == "tanh":
        cube = graph.add("Mul", graph.add("Mul", value, value), value)
        inner = graph.add("Add", value, graph.add("Mul", cube, graph.constant(0.044715)))
        slope = graph.add("Tanh", graph.add("Mul", inner, graph.constant(math.sqrt(2 / math.pi))))
    else:
        slope = graph.add("Erf", graph.add("Div", value, graph.constant(math.sqrt(2))))
    return graph.add("Mul", graph.add("Mul", value, graph.add("Add", slope, graph.constant(1.0))), half)


def _mish(graph: "Graph", value: str) -> str:
    return graph.add("Mul", value, graph.add("Tanh", graph.add("Softplus", value)))


# Operators that came after `OLDER_OPSET`.
REWRITES: Mapping[str, Callable[..., str]] = {"Gelu": _gelu, "Mish": _mish}
