"""Outputs that the graph itself goes on computing with."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

_LOWEST = "lowest_float"


def keep_outputs(traced: onnx.ModelProto) -> None:
    """Put a node that changes nothing before each output that other nodes read; in place.

    ONNX Runtime moves a QuantizeLinear before the node that it follows. If that node reads an output of the graph, the
    output becomes what is behind DequantizeLinear: the next layer's rounding would be in it.
    """
    graph = traced.graph
    read = {name for node in graph.node for name in node.input}
    inner = {value.name: f"{value.name}.inner" for value in graph.output if value.name in read}
    if not inner:
        return
    for node in graph.node:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    graph.initializer.append(numpy_helper.from_array(np.array(np.finfo(np.float32).min), _LOWEST))
    # Of the nodes that change nothing, the optimiser leaves this one alone.
    graph.node.extend(helper.make_node("Clip", [name, _LOWEST], [output]) for output, name in inner.items())
