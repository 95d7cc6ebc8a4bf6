"""The runtimes of exported models: everything that differs between them is in one value each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from mixqsam.deployed.names import ENCODER
from mixqsam.deployed.sessions import OnnxSession, OpenvinoSession, Session, convert_to_openvino
from mixqsam.errors import ArtifactError, InputError


class SessionMaker(Protocol):
    """Loads a file."""

    def __call__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        precision: str | None = None,
        outputs: Sequence[str] | None = None,
    ) -> Session:
        """The loaded model; `outputs` are those that are computed, None for all."""
        ...


@dataclass(frozen=True)
class Backend:
    """A runtime of exported models.

    Attributes:
        name: by which users choose it; also the name of the extra that installs it.
        title: its own name.
        endings: of the files of a model; the first is that of the file which is loaded.
        writers: libraries that exporting needs.
        runtime: library that runs the files.
        session: loads a file.
        sliced: global attention has to be written slice by slice, because the runtime would hold all of its logits.
        convert: from an ONNX file and its metadata to this backend's file; None where that is the ONNX file.
    """

    name: str
    title: str
    endings: tuple[str, ...]
    writers: tuple[str, ...]
    runtime: str
    session: SessionMaker
    sliced: bool
    convert: Callable[[Path, Path, str], None] | None = None

    def file(self, directory: Path, model: str) -> Path:
        """Where the encoder or the decoder lies in a directory."""
        return directory / f"{model}{self.endings[0]}"

    @property
    def is_installed(self) -> bool:
        """Whether models can be exported to it and run here."""
        return all(find_spec(library) for library in {*self.writers, self.runtime})

    def check_writers(self) -> None:
        """Refuse to export without the libraries for that.

        Raises:
            InputError: one is not installed; the message names the extra.
        """
        for library in self.writers:
            try:
                import_module(library)
            except ImportError as error:
                raise InputError(f"Exporting needs {library}: pip install 'mixqsam[{self.name}]'.") from error

    def load(
        self,
        directory: Path,
        model: str,
        *,
        threads: int | None,
        precision: str | None,
        outputs: Sequence[str] | None = None,
    ) -> Session:
        """Load the encoder or the decoder of a directory; `outputs` are those that are computed, None for all.

        Raises:
            ArtifactError: the file is missing or cannot be loaded.
            InputError: the runtime is not installed.
        """
        path = self.file(directory, model)
        if not path.is_file():
            raise ArtifactError(
                f"{path} does not exist; make it with `mixqsam export QUANTIZED --format {self.name} -o {directory}`."
            )
        return self.session(path, threads=threads, precision=precision, outputs=outputs)


ONNX = Backend(
    name="onnx",
    title="ONNX Runtime",
    endings=(".onnx", ".data"),
    writers=("onnx",),
    runtime="onnxruntime",
    session=OnnxSession,
    sliced=True,
)
OPENVINO = Backend(
    name="openvino",
    title="OpenVINO",
    endings=(".xml", ".bin"),
    writers=("onnx", "openvino"),
    runtime="openvino",
    session=OpenvinoSession,
    sliced=False,
    convert=convert_to_openvino,
)
BACKENDS = {backend.name: backend for backend in (ONNX, OPENVINO)}


def find_backend(name: str) -> Backend:
    """A backend by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in BACKENDS:
        raise InputError(f"The format {name!r} is unknown; choose {', '.join(BACKENDS)}.")
    return BACKENDS[name]


def backend_of(directory: Path) -> Backend | None:
    """The backend whose files a directory holds, if any."""
    return next((one for one in BACKENDS.values() if one.file(directory, ENCODER).is_file()), None)
