"""Functions that show quantized models, use them and bring them elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from mixqsam.api.shared import data_of, session_of, write_scores
from mixqsam.data.images import open_image
from mixqsam.errors import InputError
from mixqsam.pipeline.benchmark import Benchmark, installed_backends, run_benchmark
from mixqsam.pipeline.export import run_export
from mixqsam.pipeline.options import Data
from mixqsam.pipeline.predict import make_prompts, run_prediction
from mixqsam.pipeline.report import run_report
from mixqsam.pipeline.stages import load, make_predictor
from mixqsam.prediction import Prediction, Predictor
from mixqsam.progress import Progress

__all__ = ["benchmark", "export", "load", "predict", "predictor", "report", "serve"]


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
        directories: what `quantize` wrote; those after the first are drawn beside it.
        images: a folder, or `Data`, to compare all of them with the float model on; None for what `quantize` measured.
        limit: maximum number of images.
        reference: the float model; None for the one that the first directory was made from.
        output: HTML file to write; None for `report.html` in the first directory.
        cache: folder of finished stages; None for the user's.
        progress: hears of steps.

    Returns:
        The file.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    several = [directories] if isinstance(directories, str | Path) else directories
    return run_report(
        [Path(one) for one in several],
        None if images is None else data_of(images),
        session=session_of(cache, progress),
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
        models: quantized or exported directories, float models; the float model of the first is served too. Without
            any, the demonstration's model, or `sam-tiny` where there is none.
        images: folder of images to choose from; None for the demonstration's photographs.
        host: address to listen at; with 0.0.0.0 others can reach the page.
        port: 0 for any that is free.
        ready: is called with the page's address and the models' names; None prints them.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    try:
        from mixqsam.serving.server import serve_models  # noqa: PLC0415  (needs an extra)
    except ImportError as error:
        raise InputError(f"The page needs {error.name}: pip install 'mixqsam[serve]'.") from error
    sources = [models] if isinstance(models, str | Path) else models
    serve_models(
        [str(one) for one in sources],
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
        image: the file.
        model: float model, quantized directory, or exported directory.
        boxes: x1, y1, x2, y2 in pixels; each is a prompt.
        points: x, y or x, y, 0 (background); all of them are one prompt.
        output: mask to write (PNG); None for none.
        overlay: picture of the mask on the image to write (PNG); None for none.
        backend: `torch`, `onnx` or `openvino`; None for what the model's files are for.
        device: for `torch`.

    Raises:
        MixqsamError: of any kind; the message says what to do.
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


def predictor(model: str | Path, *, backend: str | None = None, device: str = "cpu") -> Predictor:
    """A predictor with the interface of segment-anything's (`set_image`, `predict`).

    Args:
        model: for `torch` a float model or a directory that `quantize` wrote; otherwise one that `export` wrote.
        backend: `torch`, `onnx` or `openvino`; None for what the files are for.
        device: for `torch`.

    Raises:
        InputError: of any kind; the message says what to do.
    """
    return make_predictor(model, backend=backend, device=device)


def export(
    model: str | Path,
    output: Path | str,
    *,
    format: Literal["onnx", "openvino"] = "onnx",  # noqa: A002  (the word for it)
    single_mask: bool = False,
    raw_image: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Mapping[str, str]:
    """Write encoder and decoder of a quantized directory as files of a format.

    Args:
        model: a directory that `quantize` wrote.
        output: the directory to write, whole or not at all.
        format: `onnx` or `openvino`.
        single_mask: the decoder gives one mask for each prompt instead of four.
        raw_image: the encoder takes an image [height, width, 3] of 0 … 255 and prepares it itself.
        overwrite: replace a directory that mixqsam exported before.
        progress: hears of steps.

    Returns:
        Quantized units whose products stay in float arithmetic → why; their values are quantized all the same.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    exported = run_export(
        Path(model),
        Path(output),
        kind=format,
        session=session_of(None, progress),
        single=single_mask,
        raw_image=raw_image,
        overwrite=overwrite,
    )
    return exported.float_units


def benchmark(
    model: str | Path,
    *,
    backends: Sequence[str] = (),
    image: Path | str | None = None,
    runs: int = 5,
    memory: bool = True,
    output: Path | str | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Time encoder and decoder on every backend, in turns with the float model in PyTorch.

    Args:
        model: a directory that `quantize` wrote.
        backends: of `torch`, `onnx`, `openvino`; empty for all that are installed.
        image: image to encode; None for one of noise.
        runs: how often each is timed; medians are reported.
        memory: measure memory too.
        output: JSON file to write; None for none.
        progress: hears of steps.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    times = run_benchmark(
        Path(model),
        backends=backends or installed_backends(),
        image=None if image is None else open_image(Path(image)),
        runs=runs,
        memory=memory,
        session=session_of(None, progress),
    )
    write_scores(output, times.to_json())
    return times
