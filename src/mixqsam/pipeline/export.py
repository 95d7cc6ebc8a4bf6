"""Export a quantized directory for other runtimes."""

from pathlib import Path
from typing import TYPE_CHECKING

from mixqsam.artifact.store import is_quantized, load_model
from mixqsam.deployed.backends import find_backend
from mixqsam.deployed.names import ENCODER
from mixqsam.directories import claim_directory, new_directory
from mixqsam.errors import ArtifactError, InputError
from mixqsam.pipeline.options import Session

if TYPE_CHECKING:
    from mixqsam.exporting.files import Exported


def run_export(
    source: Path,
    output: Path,
    *,
    kind: str,
    session: Session,
    single: bool = False,
    raw_image: bool = False,
    compatible: bool = False,
    overwrite: bool = False,
) -> "Exported":
    """Write encoder and decoder of a quantized model.

    Args:
        source: a directory that `quantize` wrote.
        output: directory to write; after an error nothing is written.
        kind: `onnx` or `openvino`.
        session: cache and progress.
        single: see `mixqsam.exporting.files.ExportOptions`.
        raw_image: likewise.
        compatible: likewise; for `onnx` alone.
        overwrite: replace a directory that mixqsam exported.

    Raises:
        ArtifactError: the source cannot be read.
        InputError: the extra of that format is not installed.
        OutputError: the output exists, or cannot be written.
    """
    backend = find_backend(kind)
    if compatible and backend.convert is not None:
        raise InputError(f"{backend.title} has one form of files; --compatible is for ONNX.")
    marker = backend.file(output, ENCODER).name
    if not is_quantized(source):
        raise ArtifactError(f"{source} is not a quantized directory; make one with `mixqsam quantize`.")
    backend.check_writers()
    from mixqsam.exporting.files import ExportOptions, export  # noqa: PLC0415  (it needs the extra)

    with claim_directory(output, overwrite=overwrite, marker=marker):
        with session.timed("loading"):
            sam, manifest = load_model(source, integer=True)
        with session.timed("export"), new_directory(output, overwrite=overwrite, marker=marker) as folder:
            options = ExportOptions(single=single, raw_image=raw_image, compatible=compatible)
            return export(sam, manifest, folder, backend=backend, options=options)
