"""Nodes that compute the same become one: one mask and three masks are decoded by the same transformer."""

import hashlib
from typing import Any

import onnx


def merge(traced: onnx.ModelProto) -> None:
    """Leave one of all nodes, and of all constants, that are equal; in place."""
    graph, same = traced.graph, {}
    outputs = {value.name for value in graph.output}
    constants: dict[bytes, str] = {}
    nodes: dict[Any, onnx.NodeProto] = {}
    for constant in list(graph.initializer):
        kept = constants.setdefault(_content(constant), constant.name)
        if kept != constant.name:
            same[constant.name] = kept
            graph.initializer.remove(constant)
    for node in list(graph.node):
        node.input[:] = [same.get(name, name) for name in node.input]
        first = nodes.setdefault(_call(node), node)
        if first is not node and outputs.isdisjoint(node.output):
            same.update(zip(node.output, first.output, strict=True))
            graph.node.remove(node)


def _content(constant: onnx.TensorProto) -> bytes:
    """A hash of all of a constant but its name."""
    copy = onnx.TensorProto()
    copy.CopyFrom(constant)
    copy.ClearField("name")
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).digest()


def _call(node: onnx.NodeProto) -> Any:
    """All of a node but the names of it and of its outputs."""
    attributes = sorted(one.SerializeToString(deterministic=True) for one in node.attribute)
    return node.domain, node.op_type, len(node.output), tuple(node.input), tuple(attributes)
