"""Run several predictors over the same images and prompts, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError, ImageError
from mixqsam.evaluation.coco import CocoScores, Truth, mask_results
from mixqsam.progress import Progress
from mixqsam.sam.predictor import Prediction, Predictor


@dataclass(frozen=True)
class Fidelity:
    """How near a model's masks are to the reference model's.

    Attributes:
        mean_iou: mean IoU of masks, over prompts.
        kl: P_Y definition → mean KL divergence from the reference's output, over images.
    """

    mean_iou: float
    kl: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """What was measured of one model.

    Attributes:
        images: evaluated.
        prompts: evaluated.
        coco: mask AP; None without annotations.
        truth_iou: mean IoU with the annotated masks, over prompts; None where prompts are not annotations' boxes.
        fidelity: to the reference; None for the reference itself.
    """

    images: int
    prompts: int
    coco: CocoScores | None
    truth_iou: float | None
    fidelity: Fidelity | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)


def evaluate(
    predictors: Mapping[str, Predictor],
    samples: Sequence[Sample],
    *,
    annotations: Path | None,
    progress: Progress,
    best_of_three: bool = False,
) -> dict[str, Report]:
    """Evaluate predictors; the first is the reference of the fidelity.

    Each prompt gives one mask: the model's single one, or of its three the one that it thinks best. With annotations
    the COCO score of a mask is the predicted IoU, times the detector's score where there is one. AP is over the images
    of `samples`; those that cannot be read are named and skipped, and count as images without masks.

    Args:
        predictors: name → model.
        samples: images with prompts.
        annotations: the COCO file for AP; None for fidelity alone.
        progress: is told about images.
        best_of_three: let the model choose among three masks.

    Raises:
        AnnotationError: no sample has a prompt.
        ImageError: no image can be read.
    """
    truth = None if annotations is None else Truth(annotations)
    images = [sample.image_id for sample in samples]
    runs = {name: _Run(truth, images) for name in predictors}
    reference = next(iter(predictors))
    usable = [sample for sample in samples if len(sample.prompts)]
    if not usable:
        raise AnnotationError("No image has a box or point to evaluate with.")
    broken: list[str] = []
    for sample in progress.track(usable, label="Evaluating", total=len(usable)):
        try:
            image = sample.open()
        except ImageError as error:
            broken.append(str(error))
            continue
        found = {}
        for name, predictor in predictors.items():
            predictor.set_image(image)
            prediction = predictor.predict(sample.prompts, multimask=best_of_three)
            found[name] = prediction.best() if best_of_three else prediction
        for name, prediction in found.items():
            runs[name].add(sample, prediction, found[reference])
    if broken:
        progress.note(f"Skipped {len(broken)} of {len(usable)} images: " + " ".join(broken))
    if len(broken) == len(usable):
        raise ImageError("None of the images can be read: " + " ".join(broken[:5]))
    return {name: run.report(is_reference=name == reference) for name, run in runs.items()}


class _Run:
    """What is gathered of one predictor."""

    def __init__(self, truth: Truth | None, image_ids: Sequence[int]) -> None:
        self.truth = truth
        self.image_ids = image_ids
        self.images = 0
        self.truth_ious: list[float] = []
        self.ious: list[float] = []
        self.kl: dict[str, list[float]] = {output: [] for output in OUTPUTS}
        self.results: list[dict[str, Any]] = []

    def add(self, sample: Sample, prediction: Prediction, reference: Prediction) -> None:
        self.images += 1
        self.ious.extend(mask_ious(prediction.masks[:, 0], reference.masks[:, 0]).tolist())
        ours, theirs = _visible(prediction), _visible(reference)
        for output, divergence in OUTPUTS.items():
            self.kl[output].append(float(divergence(theirs, ours[None])))
        if self.truth is not None:
            self.results.extend(mask_results(sample, prediction))
            masks = self.truth.masks(sample)
            if masks is not None:
                self.truth_ious.extend(mask_ious(prediction.masks[:, 0], masks).tolist())

    def report(self, *, is_reference: bool) -> Report:
        fidelity = Fidelity(float(np.mean(self.ious)), {name: float(np.mean(v)) for name, v in self.kl.items()})
        coco = None if self.truth is None else self.truth.score(self.results, images=self.image_ids)
        truth_iou = float(np.mean(self.truth_ious)) if self.truth_ious else None
        return Report(self.images, len(self.ious), coco, truth_iou, None if is_reference else fidelity)


def _visible(prediction: Prediction) -> torch.Tensor:
    """Low-resolution logits without the frame's padding."""
    height, width = prediction.visible
    return torch.from_numpy(prediction.logits[..., :height, :width])


def mask_ious(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of each pair of masks [P, height, width]; two empty masks agree."""
    both = (first & second).sum(axis=(1, 2))
    either = (first | second).sum(axis=(1, 2))
    ious: NDArray[np.float64] = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    return ious
