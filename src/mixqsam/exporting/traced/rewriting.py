"""Put a traced graph into one of the engine's, quantized units in the places of their placeholders."""

from typing import Any

import onnx

from mixqsam.exporting.graph import Graph
from mixqsam.exporting.layers import Layers
from mixqsam.exporting.traced.convolutions import write_convolution
from mixqsam.exporting.traced.outputs import keep_outputs
from mixqsam.exporting.traced.placeholders import DOMAIN, LAYER
from mixqsam.sam.load import Sam


def rewrite(graph: Graph, traced: onnx.ModelProto, sam: Sam, *, apart: bool) -> dict[str, str]:
    """Add a traced graph to another.

    Args:
        graph: it grows; has the inputs of the traced one, and gets its outputs.
        traced: of a module that has the model as `model`, made while placeholders were in it.
        sam: the model.
        apart: write convolutions so that ONNX Runtime computes what PyTorch does; see `write_convolution`.

    Returns:
        Units whose products stay in float arithmetic, and why.
    """
    layers = Layers(graph, sam.rest)
    keep_outputs(traced)
    _write_constants(graph, layers, traced, sam)
    for node in traced.graph.node:
        if node.domain == DOMAIN:
            graph.add("Identity", _write_unit(layers, node, sam, apart=apart), outputs=[node.output[0]])
        else:
            graph.include(node)
    return layers.float_units


def _write_constants(graph: Graph, layers: Layers, traced: onnx.ModelProto, sam: Sam) -> None:
    """Constants as they are; a tensor that is stored as codes, as codes."""
    stored = {id(sam.model.get_parameter(name)): name for name in sam.rest}
    tensors = dict(sam.model.named_parameters(prefix="model", remove_duplicate=False))
    for constant in traced.graph.initializer:
        tensor = tensors.get(constant.name)
        if tensor is not None and id(tensor) in stored:
            graph.add("Identity", layers.tensor(stored[id(tensor)], tensor), outputs=[constant.name])
        else:
            graph.include_constant(constant)


def _write_unit(layers: Layers, node: onnx.NodeProto, sam: Sam, *, apart: bool) -> str:
    attributes: dict[str, Any] = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    unit, value = attributes["unit"].decode(), node.input[0]
    module: Any = sam.model.get_submodule(unit)
    if node.op_type != LAYER:
        return layers.activation(value, module.quantizers[attributes["operand"].decode()], unit=unit)
    if len(module.stored.shape) == 2:
        return layers.linear(value, module, unit=unit, rank=attributes["rank"])
    return write_convolution(layers, value, module, unit=unit, apart=apart)
