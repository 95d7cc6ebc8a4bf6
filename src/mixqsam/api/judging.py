"""Functions that evaluate models, and detectors that prompt them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from mixqsam.api.shared import as_data, start_session, write_output
from mixqsam.errors import InputError
from mixqsam.evaluation.automatic import AutomaticScores
from mixqsam.evaluation.evaluate import EvaluationResult
from mixqsam.evaluation.oriented_scores import OrientedScores
from mixqsam.evaluation.semantic import SemanticScores
from mixqsam.options.fields import Nested
from mixqsam.pipeline.automatic import run_automatic
from mixqsam.pipeline.detect import run_detection
from mixqsam.pipeline.evaluate import check_single_masks, run_evaluation, with_reference
from mixqsam.pipeline.options import Data
from mixqsam.pipeline.semantic import run_semantic
from mixqsam.pipeline.tasks import DetectionOptions, OrientedData, SemanticData
from mixqsam.progress import Progress
from mixqsam.sam.automatic_options import Automatic

# Sources by name, or sources alone.
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
        annotations: a COCO file with images and categories.
        output: JSON file to write.
        options: selection of boxes.
        skip_missing: skip images that the folder does not hold, and count them.
        cache: folder of the cache; None for the user's.
        device: device for the computation, e.g. `cpu` or `cuda`.
        progress: receives the progress.

    Returns:
        The results that were written.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    return run_detection(
        detector,
        images=Path(images),
        annotations=Path(annotations),
        output=Path(output),
        options=options or DetectionOptions(),
        skip_missing=skip_missing,
        session=start_session(cache, progress, device=device),
    )


def evaluate(
    models: Models,
    images: Data | Path | str,
    *,
    reference: str | Path | None = None,
    limit: int | None = None,
    best_of_three: bool = False,
    dynamic_multimask: bool = True,
    keep_embeddings: bool = False,
    output: Path | str | None = None,
    results: Path | str | None = None,
    cache: Path | str | None = None,
    device: str = "cpu",
    processes: int | None = None,
    progress: Progress | None = None,
) -> dict[str, EvaluationResult]:
    """Evaluate models side by side: COCO mask AP with annotations, and fidelity to the reference.

    Args:
        models: name → model, of which the first is the reference; or models alone.
        images: a folder, or `Data` with annotations or boxes.
        reference: the float model, named `float`; None for a mapping's first, or for the source of the first model.
        limit: maximum number of images.
        best_of_three: use the best of three masks per prompt, by predicted IoU.
        dynamic_multimask: let SAM 2 and SAM 3 replace a single mask of low stability by the best of three.
        keep_embeddings: cache the reference's image embeddings for later evaluations.
        output: JSON file to write; None writes nothing.
        results: COCO results to write, which need annotations; None writes nothing.
        cache: folder of the cache; None for the user's.
        device: device for the computation, e.g. `cpu` or `cuda`.
        processes: expected number of processes from torchrun; None for any.
        progress: receives the progress.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    check_single_masks([str(source) for source in _name_models(models).values()], dynamic_multimask=dynamic_multimask)
    session = start_session(cache, progress, device=device, processes=processes, is_group=True)
    scores = run_evaluation(
        _put_reference_first(models, reference),
        as_data(images),
        limit=limit,
        session=session,
        best_of_three=best_of_three,
        dynamic_multimask=dynamic_multimask,
        keep_embeddings=keep_embeddings,
        results=None if results is None else Path(results),
    )
    if not session.engine.rank:
        write_output(output, {name: result.to_json() for name, result in scores.items()})
    return scores


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
    """Evaluate oriented detection on DOTA-v1.0: boxes → masks → rotated boxes → mAP.

    Args:
        models: name → model, or models alone.
        data: images, labels, boxes, tiles.
        limit: maximum number of images.
        submission: folder for the files of the DOTA server; None writes nothing.
        output: JSON file to write; None writes nothing.
        device: device for the computation, e.g. `cpu` or `cuda`.
        progress: receives the progress.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    try:
        from mixqsam.pipeline.oriented import run_oriented  # noqa: PLC0415  (needs an extra)
    except ImportError as error:
        raise InputError(f"Oriented boxes need {error.name}: pip install 'mixqsam[oriented]'.") from error

    scores = run_oriented(
        _name_models(models),
        data,
        session=start_session(None, progress, device=device),
        limit=limit,
        submission=None if submission is None else Path(submission),
    )
    write_output(output, {name: asdict(model_scores) for name, model_scores in scores.items()})
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
    """Evaluate automatic masks: the shares of the reference's and of the annotated masks that a model finds.

    Args:
        models: name → model, of which the first is the reference; or models alone.
        images: a folder, or `Data` with annotations.
        options: generation and selection of masks.
        reference: see `evaluate`.
        limit: maximum number of images.
        output: JSON file to write; None writes nothing.
        device: device for the computation, e.g. `cpu` or `cuda`.
        progress: receives the progress.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    scores = run_automatic(
        _put_reference_first(models, reference),
        as_data(images),
        options=options or Automatic(),
        session=start_session(None, progress, device=device),
        limit=limit,
    )
    write_output(output, {name: asdict(model_scores) for name, model_scores in scores.items()})
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
    """Evaluate semantic segmentation: regions of label maps prompt the model; the result is the mean IoU of its map.

    Args:
        models: name → model, or models alone.
        data: images, label maps, prompts.
        limit: maximum number of images.
        output: JSON file to write; None writes nothing.
        device: device for the computation, e.g. `cpu` or `cuda`.
        progress: receives the progress.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    scores = run_semantic(_name_models(models), data, session=start_session(None, progress, device=device), limit=limit)
    write_output(output, {name: asdict(model_scores) for name, model_scores in scores.items()})
    return scores


def _name_models(models: Models) -> dict[str, str | Path]:
    """Give every model a name; a source alone is its own name."""
    if isinstance(models, Mapping):
        return dict(models)
    return {str(model): model for model in ([models] if isinstance(models, str | Path) else models)}


def _put_reference_first(models: Models, reference: str | Path | None) -> dict[str, str | Path]:
    """Name the models, with the reference first."""
    named = _name_models(models)
    if not named:
        raise InputError("Name a model to evaluate.")
    if isinstance(models, Mapping):
        return named if reference is None else {"float": reference, **named}
    return dict(with_reference(list(named), None if reference is None else str(reference)))
