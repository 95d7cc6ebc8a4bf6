"""Write the report of a quantized directory again: beside other directories, or evaluated on other images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixqsam.errors import InputError
from mixqsam.files import read_json, write_bytes
from mixqsam.pipeline.evaluate import float_source, run_evaluation
from mixqsam.pipeline.examples import draw_examples
from mixqsam.pipeline.quantized_directory import PAGE, make_figures
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import MARKER, make_predictor, read_analysis
from mixqsam.reporting.page import EvaluatedModels, ReportContent, write_page
from mixqsam.reporting.record import NAME, Figures, Run


def run_report(
    directories: Sequence[Path],
    data: Source | None,
    *,
    session: Session,
    limit: int | None = None,
    reference: str | None = None,
    output: Path | None = None,
) -> Path:
    """Write the report of the first directory.

    Args:
        directories: directories that `quantize` wrote; the figure of quality and size shows all of them.
        data: images of the comparison with the float model; None for the measurements of `quantize`.
        session: cache and progress.
        limit: maximum number of images.
        reference: the float model; None for the origin of the first directory.
        output: file to write; None for `report.html` in the first directory.

    Returns:
        The file.

    Raises:
        ArtifactError: `quantize` did not write a directory, or it cannot be read.
        InputError: the list of directories is empty.
    """
    if not directories:
        raise InputError("Name a directory that `mixqsam quantize` wrote.")
    content = _read_content(directories[0])
    if data is not None:
        content = _evaluate_content(content, directories, data, limit=limit, reference=reference, session=session)
    elif len(directories) > 1:
        content = _add_models(content, directories)
    target = output or directories[0] / PAGE
    write_bytes(target, write_page(content).encode())
    return target


def read_run(directory: Path) -> Run:
    """Read the record of the run that made a quantized directory.

    Raises:
        ArtifactError: it is missing or malformed.
    """
    path = directory / NAME
    return Run.from_json(read_json(path, what="the record of a run of `mixqsam quantize`"), source=str(path))


def _read_content(directory: Path) -> ReportContent:
    run = read_run(directory)
    allocation: Mapping[str, Any] = read_json(directory / MARKER, what="an allocation")
    pictures = {}
    for file in (file for example in run.examples for file in example.pictures.values()):
        path = (directory / file).resolve()
        # Pictures are read only from the directory itself, whatever path the record names.
        if path.is_relative_to(directory.resolve()) and path.is_file():
            pictures[file] = path.read_bytes()
    return ReportContent(read_analysis(directory), allocation, run, pictures)


def _labels(directories: Sequence[Path]) -> dict[str, Path]:
    """Label each directory with its name, or with its path if two have the same name."""
    names = [path.resolve().name for path in directories]
    return {name if names.count(name) == 1 else str(path): path for name, path in zip(names, directories, strict=True)}


def _add_models(content: ReportContent, directories: Sequence[Path]) -> ReportContent:
    """Add the models of other directories with measurements on the same images."""
    budgets: dict[str, Figures] = {}
    notes = []
    measured = content.run.check
    for label, directory in _labels(directories).items():
        run = read_run(directory)
        if measured is None or run.check is None or run.check.digest != measured.digest:
            notes.append(
                f"{label} was measured on other images, or not at all, and is left out; "
                "with --images all of them are measured on the same ones."
            )
            continue
        budgets["float"] = run.models["float"]
        if (uniform := run.models.get("uniform")) and uniform is not run.quantized:
            budgets[f"uniform {uniform.bits}"] = uniform
        budgets[label] = run.quantized
    return replace(content, budgets=budgets, notes=notes)


def _evaluate_content(
    content: ReportContent,
    directories: Sequence[Path],
    data: Source,
    *,
    limit: int | None,
    reference: str | None,
    session: Session,
) -> ReportContent:
    """Replace figures and pictures by those of the user's images."""
    labels = _labels(directories)
    models: dict[str, str | Path] = {"float": reference or float_source(directories[0]), **labels}
    results = run_evaluation(models, data, limit=limit, session=session)
    costs = {"float": content.run.models["float"]} | {n: read_run(path).quantized for n, path in labels.items()}
    figures = {
        name: make_figures(result, size=costs[name].size, bitops=costs[name].bitops) for name, result in results.items()
    }
    first = next(iter(labels))
    kind = content.run.quantized_name
    predictors = {"float": make_predictor(models["float"]), kind: make_predictor(directories[0])}
    samples = data.samples(count=limit, progress=session.progress)[:limit]
    examples = draw_examples(predictors, samples, results[first].by_image, progress=session.progress)
    about = f"{results[first].basis}; the masks below are of these."
    return replace(
        content,
        run=content.run.model_copy(update={"examples": [drawn.example for drawn in examples]}),
        pictures={file: picture for drawn in examples for file, picture in drawn.contents.items()},
        evaluation=EvaluatedModels(about, figures),
        budgets=figures if len(labels) > 1 else {},
    )
