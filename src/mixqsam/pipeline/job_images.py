"""All images of a quantization, chosen before the long work."""

from collections.abc import Sequence
from dataclasses import dataclass

from mixqsam.allocation.quality import QualityTarget
from mixqsam.data.samples import Sample
from mixqsam.pipeline.check import CheckImages, choose_check_images
from mixqsam.pipeline.options import AnalysisOptions, Evaluation
from mixqsam.pipeline.search_images import choose_search_images
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import calibration_samples


@dataclass(frozen=True)
class JobImages:
    """Images of a job.

    Attributes:
        calibration: images of analysis and quantization.
        check: images of the comparison with the float model; None for no comparison.
        judging: images on which a search measures the tried models; None without a search.
    """

    calibration: Sequence[Sample]
    check: CheckImages | None
    judging: CheckImages | None = None


def choose_job_images(
    data: Source,
    evaluation: Evaluation,
    *,
    options: AnalysisOptions,
    target: QualityTarget | None,
    session: Session,
) -> JobImages:
    """Choose the images of a job.

    Args:
        data: calibration images.
        evaluation: images of the comparison.
        options: number of images and prompts, and the seed.
        target: a quality to search a model for; None without a search.
        session: progress.

    Raises:
        AnnotationError: there are too few images with prompts, or annotations cannot be used.
    """
    if target is not None:
        chosen = choose_search_images(data, evaluation, options=options, target=target, session=session)
        return JobImages(chosen.calibration, chosen.final, chosen.judging)
    samples = calibration_samples(data, options, session)
    return JobImages(samples, choose_check_images(evaluation, data, samples, seed=options.seed, session=session))
