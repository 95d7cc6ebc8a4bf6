"""Segment everything with several models, and compare their masks."""

from collections.abc import Mapping
from pathlib import Path

from mixqsam.data.images import note_skipped
from mixqsam.errors import ImageError
from mixqsam.evaluation.automatic import AutomaticCounts, AutomaticScores
from mixqsam.evaluation.coco import Truth
from mixqsam.pipeline.predict_automatic import describe_nothing
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import make_predictor, note_frames
from mixqsam.sam.automatic import Automatic, segment_everything


def run_automatic(
    models: Mapping[str, str | Path],
    data: Source,
    *,
    options: Automatic,
    session: Session,
    limit: int | None = None,
) -> dict[str, AutomaticScores]:
    """Let models segment everything in the same images; the first is the reference of the fidelity.

    Args:
        models: name → float model, quantized directory, or exported directory.
        data: images; with ground-truth annotations the recall of their masks is measured too.
        options: how masks are made and chosen.
        session: progress, device.
        limit: maximum number of images.

    Raises:
        ImageError: no image can be read; those that cannot are named and skipped.
    """
    samples = data.samples(count=limit, progress=session.progress)[:limit]
    truth = None if data.annotations is None else Truth(data.annotations)
    predictors = {name: make_predictor(source, device=session.device) for name, source in models.items()}
    note_frames(predictors, session)
    counts = {name: AutomaticCounts() for name in predictors}
    reference = next(iter(predictors))
    broken: list[str] = []
    for sample in session.progress.track(samples, label="Segmenting everything", total=len(samples)):
        try:
            image = sample.open()
        except ImageError as error:
            broken.append(str(error))
            continue
        masks_by_name = {name: segment_everything(p, image, options).masks for name, p in predictors.items()}
        annotated = None if truth is None else truth.masks(sample)
        reference_masks = masks_by_name[reference]
        for name, masks in masks_by_name.items():
            counts[name].add(masks, reference=None if name == reference else reference_masks, truth=annotated)
    note_skipped(broken, total=len(samples), progress=session.progress)
    scores = {name: model_counts.scores() for name, model_counts in counts.items()}
    if scores[reference].masks == 0:
        session.progress.note(describe_nothing(reference, options))
    return scores
