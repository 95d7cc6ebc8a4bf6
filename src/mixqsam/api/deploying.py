"""Functions that show, use and export quantized models."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from mixqsam.api.shared import as_data, start_session, write_output
from mixqsam.errors import InputError
from mixqsam.pipeline.benchmark import Benchmark, time_model
from mixqsam.pipeline.export import PageParts, run_export
from mixqsam.pipeline.options import Data
from mixqsam.pipeline.predict import make_prompts, run_prediction
from mixqsam.pipeline.predict_automatic import AutomaticFiles, describe_nothing, run_automatic_prediction
from mixqsam.pipeline.report import run_report
from mixqsam.pipeline.stages import load, make_predictor
from mixqsam.prediction import Prediction, Predictor
from mixqsam.progress import Progress
from mixqsam.sam.automatic import Masks
from mixqsam.sam.automatic_options import Automatic

__all__ = ["benchmark", "export", "load", "predict", "predict_automatic", "predictor", "report", "serve"]

_log = logging.getLogger(__name__)


def report(
    directories: Sequence[Path | str] | Path | str,
    images: Data | Path | str | None = None,
    *,
    limit: int | None = None,
    reference: str | Path | None = None,
    output: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the report of a quantized model: one HTML file that opens offline.

    Args:
        directories: quantized directories; the report of the first also shows the others.
        images: a folder, or `Data`, on which all are compared with the float model; None for the stored figures.
        limit: maximum number of images.
        reference: the float model; None for the source of the first directory.
        output: HTML file to write; None for `report.html` in the first directory.
        cache: folder of the cache; None for the user's.
        progress: receives the progress.

    Returns:
        The file.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    paths = [directories] if isinstance(directories, str | Path) else directories
    return run_report(
        [Path(path) for path in paths],
        None if images is None else as_data(images),
        session=start_session(cache, progress),
        limit=limit,
        reference=None if reference is None else str(reference),
        output=None if output is None else Path(output),
    )


def serve(
    models: Sequence[str | Path] | str | Path = (),
    *,
    images: Path | str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    ready: Callable[[str, Sequence[str]], None] | None = None,
) -> None:
    """Serve a page for the browser until Ctrl-C: two models side by side, and a slider for the budget.

    Args:
        models: quantized or exported directories, float models; the float model of the first is added. Without any,
            the demonstration's model, or `sam-tiny` if there is none.
        images: folder of images for the page; None for the demonstration's photographs.
        host: address to listen at; 0.0.0.0 makes the page public on the network.
        port: port to listen at; 0 for any free one.
        ready: receives the page's address and the models' names; None prints them.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    try:
        from mixqsam.serving.server import serve_models  # noqa: PLC0415  (needs an extra)
    except ImportError as error:
        raise InputError(f"The page needs {error.name}: pip install 'mixqsam[serve]'.") from error
    sources = [models] if isinstance(models, str | Path) else models
    serve_models(
        [str(source) for source in sources],
        images=None if images is None else Path(images),
        host=host,
        port=port,
        ready=ready or (lambda address, names: print(f"Serving {', '.join(names)} at {address}")),
    )


def predict(
    image: Path | str,
    model: str | Path = "sam-tiny",
    *,
    boxes: Sequence[Sequence[float]] = (),
    points: Sequence[Sequence[float]] = (),
    output: Path | str | None = None,
    overlay: Path | str | None = None,
    backend: str | None = None,
    device: str = "cpu",
) -> Prediction:
    """Segment one image with boxes or points. For many prompts or images, `predictor` loads the model once.

    Args:
        image: image file.
        model: float model, quantized directory, or exported directory.
        boxes: x1, y1, x2, y2 in pixels; each is a prompt.
        points: x, y or x, y, 0 (background); all of them are one prompt.
        output: mask to write (PNG), several as `name-1.png`, `name-2.png`, …; None writes nothing.
        overlay: picture of the mask on the image (PNG, or JPEG by its name); None writes nothing.
        backend: `torch`, `onnx` or `openvino`; None for the backend of the model's files.
        device: device for `torch`.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    prediction, _ = run_prediction(
        Path(image),
        lambda width, height: make_prompts(boxes, points, width=width, height=height),
        model=model,
        output=None if output is None else Path(output),
        overlay=None if overlay is None else Path(overlay),
        backend=backend,
        device=device,
    )
    return prediction


def predict_automatic(
    image: Path | str,
    model: str | Path = "sam-tiny",
    *,
    options: Automatic | None = None,
    output: Path | str | None = None,
    overlay: Path | str | None = None,
    backend: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Masks:
    """Segment everything in one image: a grid of points prompts the model. A warning is logged if no mask was found.

    Args:
        image: image file.
        model: float model, quantized directory, or exported directory.
        options: generation and selection of masks, and crops.
        output: JSON file of the masks to write; None writes nothing.
        overlay: picture of the masks on the image (PNG, or JPEG by its name); None writes nothing.
        backend: `torch`, `onnx` or `openvino`; None for the backend of the model's files.
        device: device for `torch`.
        progress: receives the progress.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    files = AutomaticFiles(None if output is None else Path(output), None if overlay is None else Path(overlay))
    options = options or Automatic()
    masks = run_automatic_prediction(
        Path(image),
        model=model,
        options=options,
        session=start_session(None, progress, device=device),
        backend=backend,
        files=files,
    )
    if progress is None and not len(masks.scores):
        # A progress has its own note of this.
        _log.warning("%s", describe_nothing(str(model), options))
    return masks


def predictor(model: str | Path, *, backend: str | None = None, device: str = "cpu") -> Predictor:
    """Load a predictor with the interface of segment-anything's (`set_image`, `predict`).

    Args:
        model: for `torch` a float model or a quantized directory; otherwise an exported directory.
        backend: `torch`, `onnx` or `openvino`; None for the backend of the files.
        device: device for `torch`.

    Raises:
        InputError: any of its kinds; the message says what to do.
    """
    return make_predictor(model, backend=backend, device=device)


def export(
    model: str | Path,
    output: Path | str,
    *,
    format: Literal["onnx", "openvino", "web"] = "onnx",  # noqa: A002  (the word for it)
    single_mask: bool = False,
    raw_image: bool = False,
    compatible: bool = False,
    runtime_package: Path | str | None = None,
    examples: Sequence[Path | str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Mapping[str, str]:
    """Export encoder and decoder of a quantized directory, or a page that runs them in the browser.

    Args:
        model: a quantized directory.
        output: the directory to write; it is complete or absent.
        format: `onnx`, `openvino` or `web`.
        single_mask: the decoder gives one mask for each prompt instead of four; that of the page always does.
        raw_image: the encoder takes an image [height, width, 3] of 0 … 255 and preprocesses it.
        compatible: write ONNX files for runtimes before ONNX Runtime 1.23; they take a byte for each code.
        runtime_package: for `web`, file of the npm package onnxruntime-web; None for the cache, else a download.
        examples: for `web`, pictures to choose from.
        overwrite: replace a directory that mixqsam exported before.
        progress: receives the progress.

    Returns:
        Units that compute in float → reason; their values are quantized nevertheless.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    exported = run_export(
        Path(model),
        Path(output),
        kind=format,
        session=start_session(None, progress),
        single=single_mask,
        raw_image=raw_image,
        compatible=compatible,
        page=PageParts(
            None if runtime_package is None else Path(runtime_package), tuple(Path(path) for path in examples)
        ),
        overwrite=overwrite,
    )
    return exported.float_units


def benchmark(
    model: str | Path,
    *,
    units: bool = False,
    backends: Sequence[str] = (),
    image: Path | str | None = None,
    runs: int = 5,
    memory: bool = True,
    everything: bool = False,
    output: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Measure the time of encoder and decoder on every backend, alternating with the float model in PyTorch.

    Args:
        model: a quantized directory; with `units` also a float model.
        units: measure the times of the units, which budgets such as latency<=0.5x@openvino need; the cache keeps them.
        backends: of `torch`, `onnx`, `openvino`; empty for all that are installed.
        image: image to encode; None for random noise.
        runs: runs of each backend; the result has medians.
        memory: also measure memory.
        everything: also time a batch of points, as segmenting everything prompts them; not with `units`.
        output: JSON file to write; None writes nothing.
        cache: folder of the cache; None for the user's.
        progress: receives the progress.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    times = time_model(
        Path(model),
        backends=backends or (),
        units=units,
        image=None if image is None else Path(image),
        runs=runs,
        memory=memory,
        everything=everything,
        session=start_session(cache, progress),
    )
    write_output(output, times.to_json())
    return times
