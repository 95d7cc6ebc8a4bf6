"""Images of a search for a quality: some calibrate, others judge the tried models, and others measure the result."""

from collections.abc import Sequence
from dataclasses import dataclass

from mixqsam.allocation.quality import QualityTarget
from mixqsam.data.samples import Sample, draw_calibration_samples, spread
from mixqsam.errors import AnnotationError
from mixqsam.pipeline.check import DEFAULT_LIMIT, CheckImages
from mixqsam.pipeline.options import AnalysisOptions, Evaluation
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import check_truth, select_annotations

# Of the images that `--count` draws, one in this number judges; the others calibrate.
_JUDGING = 4
# At most one image in this number is spared for the result, if the evaluation has no images of its own.
_SPARED = 3
# Draws of samples limit prompts; the images of judgements keep all.
_ALL_PROMPTS = 1 << 30


@dataclass(frozen=True)
class SearchImages:
    """Images of a search; no image is in two of the parts.

    Attributes:
        calibration: images of analysis and quantization.
        judging: images on which tried models are measured.
        final: images on which the result is measured.
    """

    calibration: Sequence[Sample]
    judging: CheckImages
    final: CheckImages


def choose_search_images(
    data: Source, evaluation: Evaluation, *, options: AnalysisOptions, target: QualityTarget, session: Session
) -> SearchImages:
    """Split the images of the job.

    `--count` images are drawn; a quarter of them judges. The result is measured on images that are left over, or on
    those of the evaluation that were not drawn.

    Raises:
        AnnotationError: there are too few images with prompts, or no annotations for a share of the AP.
    """
    _check_request(data, evaluation, target)
    limit = DEFAULT_LIMIT if evaluation.limit is None else evaluation.limit
    enough = options.count + (0 if evaluation.data else limit)
    everything = data.samples(count=enough, progress=session.progress, seed=options.seed)
    prompted = [sample for sample in everything if len(sample.prompts)]
    spared = 0 if evaluation.data else min(limit, max(1, len(prompted) // _SPARED))
    count = min(options.count, len(prompted) - spared)
    if count < 2:
        raise AnnotationError(_describe_shortage(len(prompted), options.count, has_evaluation=bool(evaluation.data)))
    drawn = draw_calibration_samples(
        everything, count=count, prompts=_ALL_PROMPTS, progress=session.progress, seed=options.seed
    )
    judging, calibrating = _split(drawn, seed=options.seed)
    calibration = draw_calibration_samples(
        calibrating, count=len(calibrating), prompts=options.prompts, progress=session.progress, seed=options.seed
    )
    source = evaluation.data or data
    others = source.samples(count=None, progress=session.progress) if evaluation.data else prompted
    final = _choose_final(others, drawn, limit=evaluation.limit if evaluation.data else limit, seed=options.seed)
    named = select_annotations(source, named=bool(evaluation.data), session=session)
    judged = None if target.metric == "iou" else data.annotations
    return SearchImages(calibration, CheckImages(judging, judged), CheckImages(final, named))


def _check_request(data: Source, evaluation: Evaluation, target: QualityTarget) -> None:
    """Check that the wished quality can be measured.

    Raises:
        AnnotationError: it cannot; the message says what is missing.
    """
    if evaluation.limit == 0:
        raise AnnotationError(
            f"The budget {target} is measured on images in the end, but --eval-limit 0 leaves none; remove it."
        )
    if evaluation.data is not None:
        check_truth(evaluation.data)
    if target.metric != "ap":
        return
    for source, option in ((data, "--annotations"), (evaluation.data or data, "--eval-annotations")):
        if source.annotations is None:
            raise AnnotationError(
                f"The budget {target} needs annotated masks: give {option} with a COCO file, or a target such as "
                "iou>=0.98, which needs none."
            )
    check_truth(data)


def _split(drawn: Sequence[Sample], *, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split the drawn images, spread over folders: those that judge, and those that calibrate."""
    order = spread([sample.path for sample in drawn], seed=seed)
    count = max(1, len(drawn) // _JUDGING)
    return [drawn[index] for index in sorted(order[:count])], [drawn[index] for index in sorted(order[count:])]


def _choose_final(others: Sequence[Sample], drawn: Sequence[Sample], *, limit: int | None, seed: int) -> list[Sample]:
    """Choose images that were not drawn.

    Raises:
        AnnotationError: there is none.
    """
    used = {sample.path.resolve() for sample in drawn}
    left = [sample for sample in others if len(sample.prompts) and sample.path.resolve() not in used]
    if not left:
        raise AnnotationError(
            "All images of the evaluation take part in the search; give others with --eval-images, or a lower --count."
        )
    chosen = sorted(spread([sample.path for sample in left], seed=seed)[:limit])
    return [left[index] for index in chosen]


def _describe_shortage(images: int, count: int, *, has_evaluation: bool) -> str:
    least = 2 if has_evaluation else 3
    if images >= least:
        return f"--count {count}: a search for a quality needs at least 2 images, one to calibrate and one to judge."
    last = "" if has_evaluation else ", and one to measure the result"
    return (
        f"A target of quality needs images to judge on: at least {least} images with prompts, one to calibrate, one to "
        f"judge{last}; there are {images}."
    )
