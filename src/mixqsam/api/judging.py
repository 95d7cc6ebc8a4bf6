"""Functions that judge models."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from mixqsam.api.shared import data_of, session_of, write_scores
from mixqsam.errors import InputError
from mixqsam.evaluation.automatic import AutomaticScores
from mixqsam.evaluation.oriented import OrientedScores
from mixqsam.evaluation.run import Report
from mixqsam.evaluation.semantic import SemanticScores
from mixqsam.options.fields import Nested
from mixqsam.pipeline.automatic import run_automatic
from mixqsam.pipeline.detect import run_detection
from mixqsam.pipeline.evaluate import run_evaluation, with_reference
from mixqsam.pipeline.options import Data
from mixqsam.pipeline.semantic import run_semantic
from mixqsam.pipeline.tasks import DetectionOptions, OrientedData, SemanticData
from mixqsam.progress import Progress
from mixqsam.sam.automatic_options import Automatic

# Names and sources, or sources that name themselves.
Models = Mapping[str, str | Path] | Sequence[str | Path] | str | Path


def detect(
    detector: str | Path,
    images: Path | str,
    annotations: Path | str,
    *,
    output: Path | str,
    options: DetectionOptions | None = None,
    skip_missing: bool = False,
    cache: Path | str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Run a detector of transformers once over a data set, and write its boxes as COCO results.

    Args:
        detector: hub id or directory.
        images: the folder that the annotation file's names are relative to.
        annotations: a COCO file: which images, which categories.
        output: JSON file to write.
        options: which boxes are kept.
        skip_missing: leave out images that the folder does not hold, and count them.
        cache: folder of finished stages; None for the user's.
        device: where to compute.
        progress: hears of steps.

    Returns:
        The results, as written.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    return run_detection(
        detector,
        images=Path(images),
        annotations=Path(annotations),
        output=Path(output),
        options=options or DetectionOptions(),
        skip_missing=skip_missing,
        session=session_of(cache, progress, device=device),
    )


def evaluate(
    models: Models,
    images: Data | Path | str,
    *,
    reference: str | Path | None = None,
    limit: int | None = None,
    best_of_three: bool = False,
    keep_embeddings: bool = False,
    output: Path | str | None = None,
    cache: Path | str | None = None,
    device: str = "cpu",
    processes: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Report]:
    """Evaluate models side by side: COCO mask AP with annotations, and fidelity to the reference.

    Args:
        models: name → model, of which the first is the reference; or models alone.
        images: a folder, or `Data` with annotations or boxes.
        reference: the float model, under the name `float`; None for a mapping's first, else for the one that the first
            model was made from.
        limit: maximum number of images.
        best_of_three: take the best of three masks per prompt, as the model rates them.
        keep_embeddings: cache the reference's image embeddings for the next model.
        output: JSON file to write; None for none.
        cache: folder of finished stages; None for the user's.
        device: where to compute.
        processes: how many processes torchrun has to have launched.
        progress: hears of steps.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    session = session_of(cache, progress, device=device, processes=processes, is_group=True)
    reports = run_evaluation(
        _with_reference(models, reference),
        data_of(images),
        limit=limit,
        session=session,
        best_of_three=best_of_three,
        keep_embeddings=keep_embeddings,
    )
    if not session.engine.rank:
        write_scores(output, {name: report.to_json() for name, report in reports.items()})
    return reports


def evaluate_oriented(
    models: Models,
    data: OrientedData,
    *,
    limit: int | None = None,
    submission: Path | str | None = None,
    output: Path | str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, OrientedScores]:
    """Oriented detection on DOTA-v1.0: boxes → masks → rotated boxes → mAP.

    Args:
        models: name → model, or models alone.
        data: images, labels, boxes, tiles.
        limit: maximum number of images.
        submission: folder to write the DOTA server's files into; None for none.
        output: JSON file to write; None for none.
        device: where to compute.
        progress: hears of steps.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    try:
        from mixqsam.pipeline.oriented import run_oriented  # noqa: PLC0415  (needs an extra)
    except ImportError as error:
        raise InputError(f"Oriented boxes need {error.name}: pip install 'mixqsam[oriented]'.") from error

    scores = run_oriented(
        _named(models),
        data,
        session=session_of(None, progress, device=device),
        limit=limit,
        submission=None if submission is None else Path(submission),
    )
    write_scores(output, {name: asdict(one) for name, one in scores.items()})
    return scores


def evaluate_automatic(
    models: Models,
    images: Annotated[Data | Path | str, Nested(without=("boxes", "grid"))],
    *,
    options: Automatic | None = None,
    reference: str | Path | None = None,
    limit: int | None = None,
    output: Path | str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, AutomaticScores]:
    """Segment everything: how many of the reference's masks a model finds, and of the annotated ones.

    Args:
        models: name → model, of which the first is the reference; or models alone.
        images: a folder, or `Data` with annotations.
        options: how masks are made and chosen.
        reference: see `evaluate`.
        limit: maximum number of images.
        output: JSON file to write; None for none.
        device: where to compute.
        progress: hears of steps.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    scores = run_automatic(
        _with_reference(models, reference),
        data_of(images),
        options=options or Automatic(),
        session=session_of(None, progress, device=device),
        limit=limit,
    )
    write_scores(output, {name: asdict(one) for name, one in scores.items()})
    return scores


def evaluate_semantic(
    models: Models,
    data: SemanticData,
    *,
    limit: int | None = None,
    output: Path | str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, SemanticScores]:
    """Semantic segmentation: regions of label maps prompt the model; mean IoU of the painted map.

    Args:
        models: name → model, or models alone.
        data: images, label maps, prompts.
        limit: maximum number of images.
        output: JSON file to write; None for none.
        device: where to compute.
        progress: hears of steps.

    Raises:
        MixqsamError: of any kind; the message says what to do.
    """
    scores = run_semantic(_named(models), data, session=session_of(None, progress, device=device), limit=limit)
    write_scores(output, {name: asdict(one) for name, one in scores.items()})
    return scores


def _named(models: Models) -> dict[str, str | Path]:
    """Name → source; a source without a name is its own."""
    if isinstance(models, Mapping):
        return dict(models)
    return {str(model): model for model in ([models] if isinstance(models, str | Path) else models)}


def _with_reference(models: Models, reference: str | Path | None) -> dict[str, str | Path]:
    """The same with the reference first."""
    named = _named(models)
    if not named:
        raise InputError("Name a model to evaluate.")
    if isinstance(models, Mapping):
        return named if reference is None else {"float": reference, **named}
    return dict(with_reference(list(named), None if reference is None else str(reference)))
