"""Export a quantized directory for other runtimes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mixqsam.artifact.store import is_quantized, load_model
from mixqsam.data.images import open_image
from mixqsam.deployed.backends import BACKENDS, ONNX, Backend, find_backend
from mixqsam.deployed.names import ENCODER
from mixqsam.directories import claim_directory, new_directory
from mixqsam.errors import ArtifactError, InputError
from mixqsam.pipeline.options import Session
from mixqsam.web.package import find_package
from mixqsam.web.page import SETTINGS, write_page

# Not a backend: the page runs in the browser, and Python does not load it.
WEB = "web"
FORMATS = (*BACKENDS, WEB)


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        files: name → bytes.
        float_units: quantized units whose products stay in float arithmetic → why.
        downloads: of the page, what a visitor downloads: part → bytes.
    """

    files: Mapping[str, int]
    float_units: Mapping[str, str]
    downloads: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PageParts:
    """What goes into a page beside the model.

    Attributes:
        package: file of the runtime's npm package; None for the cache, npm or the registry.
        examples: pictures to choose from.
    """

    package: Path | None = None
    examples: Sequence[Path] = ()


def run_export(
    source: Path,
    output: Path,
    *,
    kind: str,
    session: Session,
    single: bool = False,
    raw_image: bool = False,
    compatible: bool = False,
    page: PageParts | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Write encoder and decoder of a quantized model, or the page that runs them.

    Args:
        source: a directory that `quantize` wrote.
        output: directory to write; after an error nothing is written.
        kind: `onnx`, `openvino` or `web`.
        session: cache and progress.
        single: see `mixqsam.exporting.files.ExportOptions`; the page's decoder always gives one mask.
        raw_image: likewise; the page prepares images itself.
        compatible: likewise; for `onnx` alone.
        page: for `web`, what else goes into the page.
        overwrite: replace a directory that mixqsam exported.

    Raises:
        ArtifactError: the source cannot be read.
        InputError: the extra of that format is not installed, the options do not fit it, the model does not fit the
            page, or the page's runtime is not to be had.
        OutputError: the output exists, or cannot be written.
    """
    if kind not in FORMATS:
        raise InputError(f"The format {kind!r} is unknown; choose {', '.join(FORMATS)}.")
    if kind == WEB:
        if raw_image or compatible:
            raise InputError("The page has one form of files; --raw-image and --compatible are for ONNX.")
        return _export_page(source, output, session=session, page=page or PageParts(), overwrite=overwrite)
    if page not in (None, PageParts()):
        raise InputError(f"--runtime-package and --example are for --format {WEB}.")
    return _export_files(
        source,
        output,
        backend=find_backend(kind),
        session=session,
        single=single,
        raw_image=raw_image,
        compatible=compatible,
        overwrite=overwrite,
    )


def _check_source(source: Path, backend: Backend) -> None:
    if not is_quantized(source):
        raise ArtifactError(f"{source} is not a quantized directory; make one with `mixqsam quantize`.")
    backend.check_writers()


def _export_files(
    source: Path,
    output: Path,
    *,
    backend: Backend,
    session: Session,
    single: bool,
    raw_image: bool,
    compatible: bool,
    overwrite: bool,
) -> ExportResult:
    if compatible and backend.convert is not None:
        raise InputError(f"{backend.title} has one form of files; --compatible is for ONNX.")
    marker = backend.file(output, ENCODER).name
    _check_source(source, backend)
    from mixqsam.exporting.files import ExportOptions, export  # noqa: PLC0415  (it needs the extra)

    with claim_directory(output, overwrite=overwrite, marker=marker):
        with session.timed("loading"):
            sam, manifest = load_model(source, integer=True)
        with session.timed("export"), new_directory(output, overwrite=overwrite, marker=marker) as folder:
            options = ExportOptions(single=single, raw_image=raw_image, compatible=compatible)
            exported = export(sam, manifest, folder, backend=backend, options=options)
            return ExportResult(exported.files, exported.float_units)


def _export_page(source: Path, output: Path, *, session: Session, page: PageParts, overwrite: bool) -> ExportResult:
    _check_source(source, ONNX)
    from mixqsam.exporting.files import ENCODERS, ExportOptions, export  # noqa: PLC0415  (it needs the extra)

    with claim_directory(output, overwrite=overwrite, marker=SETTINGS):
        pictures = [open_image(path) for path in page.examples]
        with session.timed("loading"):
            sam, manifest = load_model(source, integer=True)
        if sam.family.name not in ENCODERS:
            known = ", ".join(repr(name) for name in ENCODERS)
            raise InputError(
                f"{source} is a {sam.family.name!r} model; the page runs models of type {known}. "
                "Export it with --format onnx, and run these files with onnxruntime-web in a page of your own."
            )
        # A download comes after all that may be refused.
        with session.timed("runtime"):
            runtime = find_package(page.package)
        with session.timed("export"), new_directory(output, overwrite=overwrite, marker=SETTINGS) as folder:
            options = ExportOptions(single=True, byte_codes=True)
            exported = export(sam, manifest, folder, backend=ONNX, options=options)
            written = write_page(folder, settings=exported.settings, package=runtime, examples=pictures)
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
            return ExportResult(files, exported.float_units, {"model": written.model, **written.runtimes})
