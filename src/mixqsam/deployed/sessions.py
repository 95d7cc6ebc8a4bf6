"""Models of ONNX Runtime and OpenVINO as functions from named arrays to named arrays."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
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


@dataclass(eq=False)
class _FileSession(ABC):
    """A file that a runtime has loaded on the CPU.

    Args:
        path: the file.
        threads: None for all cores.
        precision: of what is not integer, where the runtime has a choice; None for its own.
        outputs: those that are computed; None for all.

    Raises:
        InputError: the runtime is not installed.
        ArtifactError: the file cannot be loaded.
    """

    path: Path
    _: KW_ONLY
    threads: int | None = None
    precision: str | None = None
    outputs: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.metadata = self._load()

    def __reduce__(self) -> tuple[Any, ...]:
        # A runtime's session cannot be copied; another process loads the file again.
        again = partial(type(self), self.path, threads=self.threads, precision=self.precision, outputs=self.outputs)
        return again, ()

    @abstractmethod
    def _load(self) -> str:
        """Load the file, and return its metadata."""


class OnnxSession(_FileSession):
    """A model in ONNX Runtime, from an `.onnx` file.

    What is not integer is float32, whatever precision is asked for. Without the package onnx, all outputs are computed.
    """

    def _load(self) -> str:
        runtime = library("onnxruntime", extra="onnx", name="ONNX Runtime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if self.threads:
            options.intra_op_num_threads = self.threads
        try:
            source = str(self.path) if self.outputs is None else _with_outputs(self.path, self.outputs)
            self._session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # Its exceptions have no common base of their own.
            raise ArtifactError(f"{self.path} cannot be loaded by ONNX Runtime: {_short(error)}") from error
        self._names = [output.name for output in self._session.get_outputs()]
        return str(self._session.get_modelmeta().custom_metadata_map.get(METADATA, ""))

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """The outputs for all inputs."""
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))


class OpenvinoSession(_FileSession):
    """A model in OpenVINO, from an `.xml` file with its `.bin`, tuned for the latency of one image.

    The precision of what is not integer is `f32`, `bf16`, or None for OpenVINO's choice, which is bf16 where the
    processor has it.
    """

    def _load(self) -> str:
        openvino = library("openvino", extra="openvino", name="OpenVINO")
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        settings |= {"INFERENCE_NUM_THREADS": self.threads} if self.threads else {}
        settings |= {"INFERENCE_PRECISION_HINT": self.precision} if self.precision else {}
        weights = self.path.with_suffix(".bin")
        if not weights.is_file():
            raise ArtifactError(f"{weights} does not exist; it belongs to {self.path.name}. Export the model again.")
        core = openvino.Core()
        try:
            model = core.read_model(self.path)
            for result in model.get_results() if self.outputs is not None else ():
                if result.output(0).names.isdisjoint(self.outputs):
                    model.remove_result(result)
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ArtifactError(f"{self.path} cannot be loaded by OpenVINO: {_short(error)}") from error
        self._request = self._compiled.create_infer_request()
        has_metadata = model.has_rt_info(_OPENVINO_PLACE)
        return str(model.get_rt_info(_OPENVINO_PLACE).astype(str)) if has_metadata else ""

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """The outputs for all inputs."""
        found = self._request.infer(dict(inputs))
        # A value that was handed on under another name has both names. The arrays are the runtime's own memory, which
        # the next run overwrites.
        return {name: np.array(found[output]) for output in self._compiled.outputs for name in output.names}


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
