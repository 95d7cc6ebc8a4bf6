"""The report of a quantized directory, made anew: with others beside it, or evaluated on images of the reader's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixqsam.errors import InputError
from mixqsam.files import read_json, write_bytes
from mixqsam.pipeline.evaluate import float_source, run_evaluation
from mixqsam.pipeline.examples import draw_examples
from mixqsam.pipeline.quantize import PAGE, figures_of
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
        directories: that `quantize` wrote; those after the first are drawn beside it, quality against size.
        data: images to compare all of them with the float model on; None for what `quantize` measured.
        session: cache and progress.
        limit: only the first so many images.
        reference: the float model; None for the one that the first directory was made from.
        output: the file to write; None for `report.html` in the first directory.

    Returns:
        The file.

    Raises:
        ArtifactError: a directory is not one of `quantize`, or cannot be read.
        InputError: no directory.
    """
    if not directories:
        raise InputError("Name a directory that `mixqsam quantize` wrote.")
    material = _material(directories[0])
    if data is not None:
        material = _evaluated(material, directories, data, limit=limit, reference=reference, session=session)
    elif len(directories) > 1:
        material = _beside(material, directories)
    target = output or directories[0] / PAGE
    write_bytes(target, write_page(material).encode())
    return target


def read_run(directory: Path) -> Run:
    """What is kept of the run that made a quantized directory.

    Raises:
        ArtifactError: it is missing or malformed.
    """
    path = directory / NAME
    return Run.from_json(read_json(path, what="the record of a run of `mixqsam quantize`"), source=str(path))


def _material(directory: Path) -> ReportContent:
    run = read_run(directory)
    allocation: Mapping[str, Any] = read_json(directory / MARKER, what="an allocation")
    pictures = {}
    for file in (file for example in run.examples for file in example.pictures.values()):
        path = (directory / file).resolve()
        # A record names pictures in its own directory; whatever else it names is not looked at.
        if path.is_relative_to(directory.resolve()) and path.is_file():
            pictures[file] = path.read_bytes()
    return ReportContent(read_analysis(directory), allocation, run, pictures)


def _labels(directories: Sequence[Path]) -> dict[str, Path]:
    """A name for each directory: its own, or where two have the same, its path."""
    names = [one.resolve().name for one in directories]
    return {name if names.count(name) == 1 else str(one): one for name, one in zip(names, directories, strict=True)}


def _beside(material: ReportContent, directories: Sequence[Path]) -> ReportContent:
    """With the models of other directories, as far as they were measured on the same images."""
    budgets: dict[str, Figures] = {}
    notes = []
    measured = material.run.check
    for label, directory in _labels(directories).items():
        run = read_run(directory)
        if measured is None or run.check is None or run.check.digest != measured.digest:
            notes.append(
                f"{label} was measured on other images, or not at all, and is left out; "
                "with --images all of them are measured on the same ones."
            )
            continue
        budgets["float"] = run.models["float"]
        if uniform := run.models.get("uniform"):
            budgets[f"uniform {uniform.bits}"] = uniform
        budgets[label] = run.models["mixed"]
    return replace(material, budgets=budgets, notes=notes)


def _evaluated(
    material: ReportContent,
    directories: Sequence[Path],
    data: Source,
    *,
    limit: int | None,
    reference: str | None,
    session: Session,
) -> ReportContent:
    """With figures and pictures of the reader's images."""
    labels = _labels(directories)
    models: dict[str, str | Path] = {"float": reference or float_source(directories[0]), **labels}
    reports = run_evaluation(models, data, limit=limit, session=session)
    costs = {"float": material.run.models["float"]} | {n: read_run(one).models["mixed"] for n, one in labels.items()}
    figures = {
        name: figures_of(report, size=costs[name].size, bitops=costs[name].bitops) for name, report in reports.items()
    }
    own = next(iter(labels))
    predictors = {"float": make_predictor(models["float"]), "mixed": make_predictor(directories[0])}
    samples = data.samples(count=limit, progress=session.progress)[:limit]
    drawn = draw_examples(predictors, samples, reports[own].by_image, progress=session.progress)
    about = f"{reports[own].basis}; the masks below are of these."
    return replace(
        material,
        run=material.run.model_copy(update={"examples": [one.example for one in drawn]}),
        pictures={file: content for one in drawn for file, content in one.contents.items()},
        evaluation=EvaluatedModels(about, figures),
        budgets=figures if len(labels) > 1 else {},
    )
