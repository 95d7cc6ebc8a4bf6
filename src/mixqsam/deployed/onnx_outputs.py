"""An ONNX model with fewer outputs, without the nodes that only the others need."""

from collections.abc import Collection, Iterator
from typing import Any


def keep_outputs(model: Any, wanted: Collection[str]) -> None:
    """Leave only some outputs of a model, and the nodes that they depend on; in place.

    Args:
        model: an `onnx.ModelProto`.
        wanted: names of its outputs.
    """
    graph, needed, kept = model.graph, set(wanted), []
    # Nodes come in an order in which each follows those that it reads.
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_reads(node))
            kept.append(node)
    nodes, outputs = kept[::-1], [output for output in graph.output if output.name in wanted]
    for field, values in (("node", nodes), ("output", outputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)


def _reads(node: Any) -> Iterator[str]:
    """What a node and the graphs within it read."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
