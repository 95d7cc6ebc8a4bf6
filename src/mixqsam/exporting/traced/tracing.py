"""Run PyTorch's exporter over a module with placeholders in it."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from mixqsam.errors import InputError, shortened
from mixqsam.exporting.graph import OPSET
from mixqsam.exporting.traced.merging import merge

# What PyTorch's exporter translates with.
_TRANSLATOR = "onnxscript"


def trace(
    module: nn.Module,
    arguments: Mapping[str, Tensor],
    *,
    outputs: Sequence[str],
    free: Mapping[str, Mapping[int, str]] | None = None,
) -> onnx.ModelProto:
    """The graph of a module.

    Args:
        module: its forward takes tensors as `*values`, and gives tensors.
        arguments: input of the graph → an example, in the order of the forward.
        outputs: names of the results, in order.
        free: input → axis → name of a size that may be any; other axes are as in the example.

    Raises:
        InputError: the model does what cannot be traced, or an operator has no form in ONNX; the message names it. Or a
            library is missing or too old.
    """
    free = free or {}
    sizes = {label: Dim(label) for axes in free.values() for label in axes.values()}
    shapes = [{axis: sizes[label] for axis, label in free.get(name, {}).items()} for name in arguments]
    _check_libraries()
    with torch.no_grad(), _quiet():
        try:
            program = torch.onnx.export(
                module,
                tuple(arguments.values()),
                dynamo=True,
                input_names=tuple(arguments),
                output_names=outputs,
                dynamic_shapes={"values": tuple(shapes)},
                opset_version=OPSET,
                external_data=False,
                optimize=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError(f"The model cannot be exported: {shortened(_cause(error), most=300)}") from error
        assert program is not None  # noqa: S101  (the exporter before this one gave None)
        traced = program.model_proto
        _forget_origin(traced)
        # Equal nodes first: half of a decoder is there twice, and simplifying takes its time.
        merge(traced)
        _check_free(traced, free)
        simplified: onnx.ModelProto = import_module(f"{_TRANSLATOR}.optimizer").optimize(traced)
    return simplified


def _check_libraries() -> None:
    """Refuse to trace without what that needs.

    Raises:
        InputError: the message names the library.
    """
    if not hasattr(torch.onnx, "ops"):
        raise InputError(f"Exporting this model needs PyTorch 2.8 or newer; there is {torch.__version__}.")
    try:
        import_module(_TRANSLATOR)
    except ImportError as error:
        raise InputError(f"Exporting this model needs {_TRANSLATOR}: pip install 'mixqsam[onnx]'.") from error


def _check_free(traced: onnx.ModelProto, free: Mapping[str, Mapping[int, str]]) -> None:
    """Refuse a graph for the sizes of the example alone, which the exporter gives without a word.

    Raises:
        InputError: a size that may be any is fixed; the message names it.
    """
    shapes = {value.name: value.type.tensor_type.shape.dim for value in traced.graph.input}
    for name, axes in free.items():
        for axis, label in axes.items():
            if not shapes[name][axis].dim_param:
                number = shapes[name][axis].dim_value
                raise InputError(f"The model cannot be exported: its code fixes the number of {label} ({number}).")


def _forget_origin(traced: onnx.ModelProto) -> None:
    """Take out what the exporter notes of where nodes come from: lines and folders of this machine."""
    for part in (*traced.graph.node, *traced.graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def _cause(error: BaseException) -> str:
    """The message of what an error began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on packages that are not installed, and on names of axes, to itself."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
