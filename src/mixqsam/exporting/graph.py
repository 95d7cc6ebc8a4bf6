"""A small writer of ONNX graphs: names are made up, constants are shared, subgraphs see what lies around them."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from mixqsam.exporting.older import OLDER_IR, OLDER_OPSET, REWRITES

OPSET, IR = 21, 10
_KINDS = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
}


class Graph:
    """Nodes and constants in the order in which they are added; a value is its name.

    Args:
        outer: the graph that this one is a part of.
        compatible: use only what runtimes know since opset 17: no newer operators, no 4-bit codes.
        has_short_codes: codes of up to 4 bits may be 4-bit ones.
        prefix: of the names that are made up, where nodes with names of their own are included.
    """

    def __init__(
        self,
        outer: "Graph | None" = None,
        *,
        compatible: bool = False,
        has_short_codes: bool = True,
        prefix: str = "",
    ) -> None:
        self._outer = outer
        self._prefix: str = prefix if outer is None else outer._prefix
        self.compatible: bool = compatible if outer is None else outer.compatible
        self.has_short_codes: bool = has_short_codes and not compatible if outer is None else outer.has_short_codes
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = [] if outer is None else outer._constants
        self._known: dict[tuple[Any, ...], str] = {} if outer is None else outer._known
        self._count: list[int] = [0] if outer is None else outer._count

    def _name(self, stem: str) -> str:
        self._count[0] += 1
        return f"{self._prefix}{stem}_{self._count[0]}"

    def add(self, kind: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Add a node; returns the name of its first output. Inputs that are left out are empty names."""
        if self.compatible and kind in REWRITES:
            return REWRITES[kind](self, *inputs, **attributes)
        names = list(outputs) or [self._name(kind.lower())]
        self._nodes.append(helper.make_node(kind, list(inputs), names, name=self._name(kind), **attributes))
        return names[0]

    def include(self, node: onnx.NodeProto) -> None:
        """Add a node of another graph, with its names."""
        self._nodes.append(node)

    def include_constant(self, constant: onnx.TensorProto) -> None:
        """Add a constant of another graph, with its name."""
        self._constants.append(constant)

    def split(self, value: str, count: int, *, axis: int) -> list[str]:
        """Equal parts of a value along an axis."""
        names = [self._name("part") for _ in range(count)]
        more = {} if self.compatible else {"num_outputs": count}
        self.add("Split", value, outputs=names, axis=axis, **more)
        return names

    def constant(self, value: Any, kind: Any = np.float32, *, name: str = "constant") -> str:
        """A constant; equal small ones are one."""
        array = np.ascontiguousarray(value, dtype=kind)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else (id(self), self._name("own"))
        if key not in self._known:
            self._known[key] = self._name(name)
            # ascontiguousarray makes a vector of a scalar.
            shaped = array.reshape(np.shape(value))
            self._constants.append(numpy_helper.from_array(shaped, self._known[key]))
        return self._known[key]

    def codes(self, codes: NDArray[np.uint8], *, bits: int, name: str) -> str:
        """A constant of codes: two in a byte up to 4 bits where the graph may hold them, otherwise bytes."""
        if bits <= 4 and self.has_short_codes:
            return self.half_bytes(codes, name=name)
        return self.constant(codes, np.uint8, name=name)

    def half_bytes(self, codes: NDArray[np.uint8], *, name: str) -> str:
        """A constant of 4-bit codes, two in a byte, the first of them in the lower half."""
        key = self._name(name)
        flat = np.append(codes.reshape(-1), np.zeros(codes.size % 2, np.uint8))
        packed = flat[0::2] | (flat[1::2] << 4)
        self._constants.append(helper.make_tensor(key, TensorProto.UINT4, codes.shape, packed.tobytes(), raw=True))
        return key

    def half(self, values: Tensor, *, name: str) -> str:
        """A constant of float16 or bfloat16 values, as float16 where that says the same."""
        key, kind = self._name(name), TensorProto.FLOAT16
        short = values.half()
        if not torch.equal(short.float(), values.float()):
            short, kind = values, TensorProto.BFLOAT16
        # numpy does not know bfloat16; both types have two bytes.
        raw = short.detach().cpu().contiguous().view(torch.int16).numpy().tobytes()
        self._constants.append(helper.make_tensor(key, kind, tuple(values.shape), raw, raw=True))
        return key

    def reshape(self, value: str, *shape: int) -> str:
        """The same elements in another shape; 0 keeps an axis, −1 is what remains."""
        return self.add("Reshape", value, self.constant(shape, np.int64))

    def transpose(self, value: str, *axes: int) -> str:
        """Axes in another order."""
        return self.add("Transpose", value, perm=list(axes))

    def scan(
        self,
        body: Callable[["Graph", list[str]], str],
        inputs: Sequence[tuple[str, Sequence[int], Any]],
        *,
        output: Sequence[int],
    ) -> str:
        """Do the same for every slice along the first axis.

        Args:
            body: from the inner graph and its inputs to its output; may use outer values.
            inputs: values with the shape and type of a slice.
            output: shape of a slice of the output, float32.
        """
        inner = Graph(self)
        names = [self._name("slice") for _ in inputs]
        result = body(inner, names)
        declared = [
            helper.make_tensor_value_info(name, _KINDS[np.dtype(kind)], list(shape))
            for name, (_, shape, kind) in zip(names, inputs, strict=True)
        ]
        out = helper.make_tensor_value_info(result, TensorProto.FLOAT, list(output))
        made = helper.make_graph(inner._nodes, self._name("body"), declared, [out])
        return self.add("Scan", *(value for value, _, _ in inputs), body=made, num_scan_inputs=len(inputs))

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        *,
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(self._nodes, name, list(inputs), list(outputs), self._constants)
        opset, format_version = (OLDER_OPSET, OLDER_IR) if self.compatible else (OPSET, IR)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            producer_name="mixqsam",
            producer_version=version("mixqsam"),
        )
        model.ir_version = format_version
        helper.set_model_props(model, dict(metadata))
        return model


def tensor(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """An input or output; a named axis may have any size."""
    return helper.make_tensor_value_info(name, kind, list(shape))
