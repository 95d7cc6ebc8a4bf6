"""The images that a comparison judges models on, with the boxes of one or several detectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixqsam.data.samples import Sample, draw_samples
from mixqsam.errors import AnnotationError
from mixqsam.pipeline.options import Data, Evaluation
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import check_truth, select_annotations, select_left_over
from mixqsam.reporting.comparison import DetectorBoxes


@dataclass(frozen=True)
class ComparedImages:
    """Images that models are judged on.

    Attributes:
        prompt_sets: detector's name → images with its boxes; one set without a name where prompts have no names.
        annotations: the COCO file for AP; None for fidelity alone.
    """

    prompt_sets: Mapping[str, Sequence[Sample]]
    annotations: Path | None

    @property
    def images(self) -> int:
        """Number of images with a prompt."""
        return len({(sample.path, sample.image_id) for sample in self._prompted})

    @property
    def prompts(self) -> int:
        """Number of prompts of all sets."""
        return sum(len(sample.prompts) for sample in self._prompted)

    @property
    def prompt_kind(self) -> str:
        """Kind of the prompts, in words."""
        if self.detectors:
            return f"boxes of {', '.join(self.detectors)}"
        return " and ".join(sorted({sample.prompt_kind for sample in self._prompted}))

    @property
    def detectors(self) -> dict[str, DetectorBoxes]:
        """Detector's name → its boxes; empty where prompts have no names."""
        return {
            name: DetectorBoxes(sum(len(s.prompts) > 0 for s in samples), sum(len(s.prompts) for s in samples))
            for name, samples in self.prompt_sets.items()
            if name
        }

    @property
    def _prompted(self) -> list[Sample]:
        return [sample for samples in self.prompt_sets.values() for sample in samples if len(sample.prompts)]


def choose_compared_images(
    evaluation: Evaluation,
    calibration: Source,
    *,
    everything: Sequence[Sample],
    used: Sequence[Sample],
    seed: int,
    session: Session,
) -> ComparedImages:
    """Choose the images before the long work.

    Args:
        evaluation: images that the user names; without any, those that the calibration leaves over.
        calibration: source of the calibration images.
        everything: all images of that source.
        used: images of the calibration.
        seed: seed of a sample of limited size.
        session: receives notes.

    Raises:
        AnnotationError: annotations or boxes cannot be used, or a detector has no box on the images.
    """
    source = evaluation.data or calibration
    annotations = select_annotations(source, named=evaluation.data is not None, session=session)
    if evaluation.data is None:
        prompt_sets = {"": select_left_over(everything, used, session)}
    else:
        check_truth(evaluation.data)
        prompt_sets = {
            name: one.samples(count=None, progress=session.progress)
            for name, one in _split_by_detector(evaluation.data).items()
        }
    if evaluation.limit is not None:
        prompt_sets = _draw(prompt_sets, count=evaluation.limit, seed=seed)
    _check_boxes(prompt_sets, source)
    return ComparedImages(prompt_sets, annotations)


def _split_by_detector(source: Data | Source) -> Mapping[str, Source]:
    named = source.by_detector() if isinstance(source, Data) else {}
    return named or {"": source}


def _draw(prompt_sets: Mapping[str, Sequence[Sample]], *, count: int, seed: int) -> dict[str, list[Sample]]:
    """Draw images at random, the same ones for all sets."""
    by_path = {sample.path: sample for samples in prompt_sets.values() for sample in samples}
    drawn = {sample.path for sample in draw_samples(list(by_path.values()), count=count, seed=seed)}
    return {name: [sample for sample in samples if sample.path in drawn] for name, samples in prompt_sets.items()}


def _check_boxes(prompt_sets: Mapping[str, Sequence[Sample]], source: Data | Source) -> None:
    """Check that every named set has a box on the images.

    Raises:
        AnnotationError: a set has none; the message names its file.
    """
    files = source.boxes if isinstance(source, Data) and isinstance(source.boxes, Mapping) else {}
    for name, file in files.items():
        samples = prompt_sets[name]
        if not any(len(sample.prompts) for sample in samples):
            raise AnnotationError(
                f"{file}: none of its boxes is on one of the {len(samples)} images to judge models on; "
                f"leave {name} out, or evaluate on more images."
            )
