"""Models of ONNX Runtime and OpenVINO as functions from named arrays to named arrays."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixqsam.deployed.names import METADATA
from mixqsam.deployed.onnx_outputs import keep_outputs
from mixqsam.errors import ArtifactError, InputError

# Where an OpenVINO file has its metadata.
_OPENVINO_PLACE = ["mixqsam", METADATA]

Arrays = Mapping[str, NDArray[np.float32]]


class Session(Protocol):
    """A loaded model.

    Attributes:
        metadata: what `export` wrote of it, as JSON; empty if another tool made the file.
    """

    metadata: str

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """The outputs for all inputs."""
        ...


class OnnxSession:
    """A model in ONNX Runtime, on the CPU.

    Args:
        path: the `.onnx` file.
        threads: None for all cores.
        precision: of what is not integer; ONNX Runtime has float32 alone, whatever is asked for.
        outputs: those that are computed; None for all. Without the package onnx all are.

    Raises:
        InputError: ONNX Runtime is not installed.
        ArtifactError: the file cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        precision: str | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self._made_of = (path, threads, precision, outputs)
        runtime = library("onnxruntime", extra="onnx", name="ONNX Runtime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        try:
            source = str(path) if outputs is None else _with_outputs(path, outputs)
            self._session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # Its exceptions have no common base of their own.
            raise ArtifactError(f"{path} cannot be loaded by ONNX Runtime: {_short(error)}") from error
        self.metadata = str(self._session.get_modelmeta().custom_metadata_map.get(METADATA, ""))
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __reduce__(self) -> tuple[Any, ...]:
        # The runtime's session cannot be copied; another process loads the file again.
        return _load_again, (OnnxSession, *self._made_of)

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """The outputs for all inputs."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


class OpenvinoSession:
    """A model in OpenVINO, on the CPU, tuned for the latency of one image.

    Args:
        path: the `.xml` file.
        threads: None for all cores.
        precision: of what is not integer: `f32`, `bf16`, or None for OpenVINO's choice, which is bf16 where the
            processor has it.
        outputs: those that are computed; None for all.

    Raises:
        InputError: OpenVINO is not installed.
        ArtifactError: the file cannot be loaded, or its `.bin` is missing.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        precision: str | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self._made_of = (path, threads, precision, outputs)
        openvino = library("openvino", extra="openvino", name="OpenVINO")
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        settings |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
        settings |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise ArtifactError(f"{weights} does not exist; it belongs to {path.name}. Export the model again.")
        core = openvino.Core()
        try:
            model = core.read_model(path)
            for result in model.get_results() if outputs is not None else ():
                if result.output(0).names.isdisjoint(outputs):
                    model.remove_result(result)
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ArtifactError(f"{path} cannot be loaded by OpenVINO: {_short(error)}") from error
        has_metadata = model.has_rt_info(_OPENVINO_PLACE)
        self.metadata = str(model.get_rt_info(_OPENVINO_PLACE).astype(str)) if has_metadata else ""
        self._request = self._compiled.create_infer_request()

    def __reduce__(self) -> tuple[Any, ...]:
        # As for ONNX Runtime.
        return _load_again, (OpenvinoSession, *self._made_of)

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """The outputs for all inputs."""
        found = self._request.infer(dict(inputs))
        # A value that was handed on under another name has both names. The arrays are the runtime's own memory, which
        # the next run overwrites.
        return {name: np.array(found[output]) for output in self._compiled.outputs for name in output.names}


def _load_again(
    kind: type[OnnxSession] | type[OpenvinoSession],
    path: Path,
    threads: int | None,
    precision: str | None,
    outputs: Sequence[str] | None,
) -> Session:
    return kind(path, threads=threads, precision=precision, outputs=outputs)


def _with_outputs(path: Path, outputs: Sequence[str]) -> str | bytes:
    """What ONNX Runtime loads to compute some outputs of a file: the model without the rest, or the file."""
    try:
        onnx = import_module("onnx")
    except ImportError:
        # Installations that only run models may lack it.
        return str(path)
    model = onnx.load(path)
    keep_outputs(model, outputs)
    content: bytes = model.SerializeToString()
    return content


def convert_to_openvino(source: Path, target: Path, metadata: str) -> None:
    """Write OpenVINO's form of an ONNX file.

    Args:
        source: the ONNX file.
        target: the `.xml` file to write.
        metadata: what the file says of itself, as JSON.

    Raises:
        InputError: OpenVINO is not installed.
    """
    openvino = library("openvino", extra="openvino", name="OpenVINO")
    model = openvino.Core().read_model(source)
    model.set_rt_info(metadata, _OPENVINO_PLACE)
    openvino.save_model(model, target, compress_to_fp16=False)


def library(module: str, *, extra: str, name: str) -> Any:
    """A runtime's library.

    Raises:
        InputError: it is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"This needs {name}: pip install 'mixqsam[{extra}]'.") from error


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:300] + "…"
