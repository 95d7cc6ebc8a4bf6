"""The Python interface: one function for each command of the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from mixqsam.allocation.choose import Allocation
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.evaluation.run import Report
from mixqsam.files import Cache, default_cache
from mixqsam.pipeline.compare import Request as CompareRequest
from mixqsam.pipeline.compare import run_comparison
from mixqsam.pipeline.evaluate import run_evaluation
from mixqsam.pipeline.export import run_export
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, Data, Options, QuantizationOptions, Session
from mixqsam.pipeline.quantize import Result, run_quantization
from mixqsam.pipeline.stages import load, make_predictor, run_allocation, run_analysis
from mixqsam.plan import Analysis
from mixqsam.prediction import Predictor
from mixqsam.progress import Progress, Silent
from mixqsam.prompts import Prompts
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.report.comparison import Comparison

__all__ = [
    "AllocationOptions",
    "AnalysisOptions",
    "CompareRequest",
    "Data",
    "ExportedPredictor",
    "Options",
    "Prompts",
    "QuantizationOptions",
    "ReconstructionOptions",
    "allocate",
    "analyze",
    "compare",
    "evaluate",
    "export",
    "load",
    "predictor",
    "quantize",
]


def _session(cache: Path | str | None, progress: Progress | None) -> Session:
    return Session(
        Cache(Path(cache) if cache else default_cache()), progress or Silent(), command="(called from Python)"
    )


def _data(images: Data | Path | str) -> Data:
    return images if isinstance(images, Data) else Data(Path(images))


def analyze(
    model: str | Path,
    images: Data | Path | str,
    *,
    options: AnalysisOptions | None = None,
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Measure what each unit of a float SAM means for its masks.

    Args:
        model: `sam-tiny`, a directory, a `.pth`, or a hub id.
        images: a folder, or `Data` with annotations or detections.
        options: how to measure.
        cache: where finished stages are kept; None for the user's cache folder.
        progress: is told about steps.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    return run_analysis(model, _data(images), options=options or AnalysisOptions(), session=_session(cache, progress))


def allocate(analysis: Analysis, *, budget: str, options: AllocationOptions | None = None) -> Allocation:
    """Choose the bits of all units under a budget (see `mixqsam.allocation.budget.HELP`).

    Raises:
        BudgetError: the budget cannot be understood or met.
    """
    return run_allocation(analysis, budget, options=options or AllocationOptions(), session=_session(None, None))


def quantize(
    model: str | Path,
    images: Data | Path | str,
    *,
    budget: str,
    output: Path | str,
    options: Options | None = None,
    overwrite: bool = False,
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> Result:
    """The main job: a float SAM, images and a budget in; a quantized directory out.

    Raises:
        MixqsamError: any of its kinds; the message says what to do. Nothing half-written is left.
    """
    return run_quantization(
        model,
        _data(images),
        budget=budget,
        output=Path(output),
        options=options or Options(),
        session=_session(cache, progress),
        overwrite=overwrite,
    )


def compare(
    model: str | Path,
    images: Data | Path | str,
    *,
    request: CompareRequest,
    output: Path | str,
    evaluation: Data | Path | str | None = None,
    overwrite: bool = False,
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare recipes at budgets, with uniform and with mixed bits; tables and a figure are written to `output`.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    return run_comparison(
        model,
        _data(images),
        None if evaluation is None else _data(evaluation),
        request=request,
        output=Path(output),
        session=_session(cache, progress),
        overwrite=overwrite,
    )


def evaluate(
    models: Mapping[str, str | Path],
    images: Data | Path | str,
    *,
    limit: int | None = None,
    best_of_three: bool = False,
    progress: Progress | None = None,
) -> dict[str, Report]:
    """Evaluate models side by side; the first is the reference of the fidelity. With annotations, mask AP too.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    return run_evaluation(
        models, _data(images), limit=limit, session=_session(None, progress), best_of_three=best_of_three
    )


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
    format: Literal["onnx", "openvino"],  # noqa: A002  (the word for it)
    single: bool = False,
    raw_image: bool = False,
    overwrite: bool = False,
) -> Mapping[str, str]:
    """Write a quantized directory as `sam.encoder` and `sam.decoder` of a format.

    Args:
        model: a directory that `quantize` wrote.
        output: the directory to write, whole or not at all.
        format: `onnx` or `openvino`.
        single: the decoder gives one mask for each prompt instead of four.
        raw_image: the encoder takes an image [height, width, 3] of 0 … 255 and prepares it itself.
        overwrite: replace a directory that mixqsam exported before.

    Returns:
        Quantized units whose products stay in float arithmetic → why; their values are quantized all the same.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    found = run_export(
        Path(model),
        Path(output),
        kind=format,
        session=_session(None, None),
        single=single,
        raw_image=raw_image,
        overwrite=overwrite,
    )
    return found.float_units
