"""Run PyTorch's exporter over a module with placeholders in it."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import onnx
import torch
from torch import nn

from mixqsam.errors import InputError, shortened
from mixqsam.exporting.graph import OPSET
from mixqsam.exporting.traced.merging import merge

# What PyTorch's exporter translates with.
_TRANSLATOR = "onnxscript"


def trace(
    module: nn.Module, arguments: tuple[Any, ...], *, inputs: Sequence[str], outputs: Sequence[str], free: Any = None
) -> onnx.ModelProto:
    """The graph of a module.

    Args:
        module: its forward takes and gives tensors.
        arguments: of the forward, for an example.
        inputs: names of all tensors among the arguments, in order.
        outputs: names of the results, in order.
        free: shaped as the arguments: axis → name for each axis that may have any size; None for none.

    Raises:
        InputError: the model does what cannot be traced, or an operator has no form in ONNX; the message names it. Or a
            library is missing or too old.
    """
    _check_libraries()
    with torch.no_grad(), _quiet():
        try:
            program = torch.onnx.export(
                module,
                arguments,
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=free,
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
