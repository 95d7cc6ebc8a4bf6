"""Some outputs of an exported model, without what the others cost."""

import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from mixqsam.deployed import sessions
from mixqsam.deployed.onnx_outputs import keep_outputs
from mixqsam.deployed.sessions import OnnxSession, OpenvinoSession, convert_to_openvino

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
ONE = {"x": np.ones((2, 3), np.float32)}


def write(path: Path, *, nested: bool) -> Path:
    """A model with the outputs `kept` and `costly`; where it is nested, a graph within a node adds up `kept`."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    inner = helper.make_graph(
        [helper.make_node("Add", ["row", "shared"], ["sum"])],
        "body",
        [helper.make_tensor_value_info("row", kind, [3])],
        [helper.make_tensor_value_info("sum", kind, [3])],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x", "first"], ["shared"], keepdims=0),
        helper.make_node("Scan", ["x"], ["kept"], body=inner, num_scan_inputs=1)
        if nested
        else helper.make_node("Add", ["x", "shared"], ["kept"]),
        helper.make_node("Mul", ["x", "kept"], ["product"]),
        helper.make_node("Div", ["product", "shared"], ["costly"]),
    ]
    values = [helper.make_tensor_value_info(name, kind, [2, 3]) for name in ("x", "kept", "costly")]
    first = helper.make_tensor("first", onnx.TensorProto.INT64, [1], [0])
    graph = helper.make_graph(nodes, "model", values[:1], values[1:], [first])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save_model(model, path)
    return path


def test_nodes_of_other_outputs_are_left_out(tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path / "model.onnx", nested=True))
    keep_outputs(model, ["kept"])
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["ReduceMax", "Scan"]
    assert [output.name for output in model.graph.output] == ["kept"]


def test_onnx_runtime_gives_the_outputs_that_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    file = write(tmp_path / "model.onnx", nested=True)
    whole = OnnxSession(file).run(ONE)
    assert set(whole) == {"kept", "costly"}
    assert whole["kept"].tolist() == [[2, 2, 2]] * 2
    some = pickle.loads(pickle.dumps(OnnxSession(file, outputs=["kept"]))).run(ONE)  # noqa: S301
    assert set(some) == {"kept"}
    np.testing.assert_array_equal(some["kept"], whole["kept"])

    def refuse(name: str) -> object:
        if name == "onnx":
            raise ImportError(name)
        return import_module(name)

    monkeypatch.setattr(sessions, "import_module", refuse)
    assert set(OnnxSession(file, outputs=["kept"]).run(ONE)) == {"kept", "costly"}


def test_openvino_gives_the_outputs_that_are_wanted(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    target = tmp_path / "model.xml"
    convert_to_openvino(write(tmp_path / "model.onnx", nested=False), target, "{}")
    whole, some = OpenvinoSession(target).run(ONE), OpenvinoSession(target, outputs=["kept"]).run(ONE)
    assert (set(whole), set(some)) == ({"kept", "costly"}, {"kept"})
    np.testing.assert_array_equal(some["kept"], whole["kept"])
