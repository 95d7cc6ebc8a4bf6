"""Run several predictors over the same images and prompts, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError, ImageError, shortened
from mixqsam.evaluation.coco import CocoScores, Truth
from mixqsam.evaluation.image_records import RecordCache, Records, make_records
from mixqsam.evaluation.record import Record
from mixqsam.parallel.engine import Engine, SingleProcess
from mixqsam.prediction import Predictor
from mixqsam.progress import Progress
from mixqsam.prompts import describe_basis


@dataclass(frozen=True)
class Fidelity:
    """Agreement of a model's masks with the reference model's.

    Attributes:
        mean_iou: mean IoU of masks, over prompts.
        kl: P_Y definition → mean KL divergence from the reference's output, over images.
    """

    mean_iou: float
    kl: Mapping[str, float]


@dataclass(frozen=True)
class ImageScore:
    """Agreement of one image's masks with the reference model's.

    Attributes:
        index: index of the image among the samples.
        path: path of the image.
        mean_iou: mean IoU over its prompts.
        ious: IoU of each prompt.
    """

    index: int
    path: str
    mean_iou: float
    ious: tuple[float, ...] = ()


@dataclass(frozen=True)
class EvaluationResult:
    """Quality of one model.

    Attributes:
        images: number of evaluated images.
        prompts: number of evaluated prompts.
        coco: mask AP; None without annotations.
        truth_iou: mean IoU with the annotated masks, over prompts; None if prompts are not the annotations' boxes.
        fidelity: agreement with the reference; None for the reference itself.
        by_image: agreement on every image, in the order of the samples; empty for the reference itself.
        prompt_kind: kind of the prompts: `grid points`, `annotated boxes`, `detector's boxes`, …
    """

    images: int
    prompts: int
    coco: CocoScores | None
    truth_iou: float | None
    fidelity: Fidelity | None
    by_image: tuple[ImageScore, ...] = ()
    prompt_kind: str = ""

    @property
    def basis(self) -> str:
        """The images and prompts behind the result, in words."""
        return describe_basis(self.images, self.prompts, self.prompt_kind)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form, without the IoU of each prompt."""
        values = asdict(self)
        for score in values["by_image"]:
            del score["ious"]
        return values


def evaluate(
    predictors: Mapping[str, Predictor],
    samples: Sequence[Sample],
    *,
    annotations: Path | None,
    progress: Progress,
    best_of_three: bool = False,
    engine: Engine | None = None,
    record_cache: RecordCache | None = None,
    coco_results: dict[str, list[dict[str, Any]]] | None = None,
) -> dict[str, EvaluationResult]:
    """Evaluate predictors; the first is the reference of the fidelity.

    Each prompt gives one mask: the single mask, or the one of three masks with the highest predicted IoU. With
    annotations the COCO score of a mask is the predicted IoU, times the detector's score if there is one. AP is over
    the images of `samples`. Unreadable images are named and skipped; they count as images without masks.

    Args:
        predictors: name → model.
        samples: images with prompts.
        annotations: the COCO file for AP; None for fidelity alone.
        progress: receives the progress of each image.
        best_of_three: let the model choose among three masks.
        engine: the group of processes that share the images; all get the same results.
        record_cache: cache of the records; None without a cache.
        coco_results: receives predictor's name → COCO results, which are empty without annotations.

    Raises:
        AnnotationError: no sample has a prompt.
        ImageError: no image can be read.
        ParallelError: a process was lost.
    """
    if not any(len(sample.prompts) for sample in samples):
        raise AnnotationError("No image has a box or point to evaluate with.")
    truth = None if annotations is None else _read_truth(annotations, progress)
    (records,) = make_records(
        predictors,
        {"": samples},
        truth=truth,
        progress=progress,
        best_of_three=best_of_three,
        engine=engine or SingleProcess(),
        record_cache=record_cache,
    ).values()
    if coco_results is not None:
        for name in predictors:
            coco_results[name] = [result for by_name in records.values() for result in by_name[name]["results"]]
    return _summarize_all(predictors, records, truth, samples=samples)


def evaluate_prompt_sets(
    predictors: Mapping[str, Predictor],
    prompt_sets: Mapping[str, Sequence[Sample]],
    *,
    annotations: Path | None,
    progress: Progress,
) -> dict[str, dict[str, EvaluationResult]]:
    """Evaluate predictors on several sets of prompts, e.g. of several detectors; an image is encoded once for all sets.

    Args:
        predictors: name → model; the first is the reference.
        prompt_sets: name → images with prompts. The scores of each are those that `evaluate` gives it.
        annotations: the COCO file for AP; None for fidelity alone.
        progress: receives the progress of each image.

    Returns:
        Set's name → predictor's name → result.

    Raises:
        AnnotationError: a set has no prompt.
        ImageError: no image of a set can be read.
    """
    for name, samples in prompt_sets.items():
        if not any(len(sample.prompts) for sample in samples):
            raise AnnotationError(f"{name}: no image has a box or point to evaluate with.")
    truth = None if annotations is None else _read_truth(annotations, progress)
    by_set = make_records(
        predictors,
        prompt_sets,
        truth=truth,
        progress=progress,
        best_of_three=False,
        engine=SingleProcess(),
        record_cache=None,
    )
    for name, records in by_set.items():
        if not records:
            raise ImageError(f"{name}: none of the images with its prompts can be read.")
    return {
        name: _summarize_all(predictors, records, truth, samples=prompt_sets[name]) for name, records in by_set.items()
    }


def _read_truth(annotations: Path, progress: Progress) -> Truth:
    truth = Truth(annotations)
    if truth.unmasked:
        first = shortened(min(truth.unmasked), most=60)
        progress.note(
            f"{len(truth.unmasked)} annotations of {annotations} have no mask and are not scored; the first is "
            f"annotation {first}."
        )
    return truth


def _summarize_all(
    predictors: Mapping[str, Predictor],
    records: Mapping[int, Records],
    truth: Truth | None,
    *,
    samples: Sequence[Sample],
) -> dict[str, EvaluationResult]:
    """Summarize each predictor's records; the first predictor is the reference."""
    reference = next(iter(predictors))
    return {
        name: _summarize(
            {index: by_name[name] for index, by_name in records.items()},
            truth,
            samples=samples,
            is_reference=name == reference,
        )
        for name in predictors
    }


def _summarize(
    by_image: Mapping[int, Record], truth: Truth | None, *, samples: Sequence[Sample], is_reference: bool
) -> EvaluationResult:
    records = list(by_image.values())
    ious = [iou for record in records for iou in record["ious"]]
    truth_ious = [iou for record in records for iou in record["truth_ious"]]
    kl = {output: float(np.mean([record["kl"][output] for record in records])) for output in OUTPUTS}
    images = [sample.image_id for sample in samples]
    coco = None if truth is None else truth.score([r for record in records for r in record["results"]], images=images)
    scores = [
        ImageScore(i, str(samples[i].path), float(np.mean(record["ious"])), tuple(record["ious"]))
        for i, record in by_image.items()
    ]
    return EvaluationResult(
        len(records),
        len(ious),
        coco,
        float(np.mean(truth_ious)) if truth_ious else None,
        None if is_reference else Fidelity(float(np.mean(ious)), kl),
        () if is_reference else tuple(scores),
        " and ".join(sorted({samples[index].prompt_kind for index in by_image})),
    )
