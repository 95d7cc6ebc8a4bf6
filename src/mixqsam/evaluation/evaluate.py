"""Run several predictors over the same images and prompts, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.data.images import note_skipped
from mixqsam.data.prefetch import opened
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError, ImageError, shortened
from mixqsam.evaluation.coco import CocoScores, Truth
from mixqsam.evaluation.record import Record, measure
from mixqsam.files import Cache, digest
from mixqsam.parallel.engine import Engine, SingleProcess, combine, take_share
from mixqsam.prediction import Prediction, Predictor
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


@dataclass(frozen=True)
class RecordCache:
    """Caches each image's records, so that a stopped evaluation resumes.

    Attributes:
        cache: the cache of all stages.
        keys: predictor's name → hash of everything that its records depend on, except the sample.
    """

    cache: Cache
    keys: Mapping[str, str]

    def for_truth(self, truth: Truth) -> "RecordCache":
        """The cache for records of this truth; records with unscored prompts have keys of their own."""
        if not truth.unmasked:
            return self
        return RecordCache(self.cache, {name: digest(key, "masked only") for name, key in self.keys.items()})

    def get(self, name: str, sample: Sample) -> Record | None:
        """Return a record, or None if it is not cached."""
        record: Record | None = self.cache.get("evaluation", digest(self.keys[name], sample.labelled_digest()))
        return record

    def put(self, name: str, sample: Sample, record: Record) -> None:
        """Cache a record."""
        self.cache.put("evaluation", digest(self.keys[name], sample.labelled_digest()), record)


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

    Images are decoded ahead and evaluated one at a time. Memory holds only figures and encoded masks of each.

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
    engine = engine or SingleProcess()
    truth = None if annotations is None else _read_truth(annotations, progress)
    if truth is not None and record_cache is not None:
        record_cache = record_cache.for_truth(truth)
    places = [index for index, sample in enumerate(samples) if len(sample.prompts)]
    usable = [samples[index] for index in places]
    if not usable:
        raise AnnotationError("No image has a box or point to evaluate with.")
    evaluator = _ImageEvaluator(predictors, truth, record_cache, best_of_three=best_of_three)
    share: dict[int, dict[str, Record] | str] = {}
    new: list[tuple[int, Sample]] = []
    for index, sample in take_share(engine, usable):
        cached = evaluator.find_records(sample)
        if cached is None:
            new.append((index, sample))
        else:
            share[index] = cached
    for index, sample, image in progress.track(opened(new), label="Evaluating", total=len(new)):
        share[index] = str(image) if isinstance(image, ImageError) else evaluator.try_run(sample, image)
    records = combine(engine, share, count=len(usable))
    note_skipped([reason for reason in records if isinstance(reason, str)], total=len(usable), progress=progress)
    evaluated = {i: by_name for i, by_name in zip(places, records, strict=True) if not isinstance(by_name, str)}
    reference = next(iter(predictors))
    if coco_results is not None:
        for name in predictors:
            coco_results[name] = [result for by_name in evaluated.values() for result in by_name[name]["results"]]
    return {
        name: _summarize(
            {i: by_name[name] for i, by_name in evaluated.items()},
            truth,
            samples=samples,
            is_reference=name == reference,
        )
        for name in predictors
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


class _ImageEvaluator:
    """Evaluates one image at a time."""

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        truth: Truth | None,
        record_cache: RecordCache | None,
        *,
        best_of_three: bool,
    ) -> None:
        self._predictors, self._truth, self._record_cache = predictors, truth, record_cache
        self._best_of_three = best_of_three
        self._reference = next(iter(predictors))

    def find_records(self, sample: Sample) -> dict[str, Record] | None:
        """Return the records of all predictors, or None if one is not cached."""
        records = {name: self._find_record(name, sample) for name in self._predictors}
        cached = {name: record for name, record in records.items() if record is not None}
        return cached if len(cached) == len(records) else None

    def _find_record(self, name: str, sample: Sample) -> Record | None:
        return None if self._record_cache is None else self._record_cache.get(name, sample)

    def try_run(self, sample: Sample, image: Image.Image) -> dict[str, Record] | str:
        """Return the records as `run` does, or the reason why a model cannot take the image."""
        try:
            return self.run(sample, image)
        except ImageError as error:
            return f"{sample.path}: {error}"

    def run(self, sample: Sample, image: Image.Image) -> dict[str, Record]:
        """Run the reference and the predictors without cached records."""
        records: dict[str, Record] = {}
        reference: Prediction | None = None
        for name, predictor in self._predictors.items():
            cached = self._find_record(name, sample)
            if cached is not None and name != self._reference:
                records[name] = cached
                continue
            predictor.set_image(image)
            prediction = predictor.segment(sample.prompts, multimask=self._best_of_three)
            prediction = prediction.best() if self._best_of_three else prediction
            reference = reference or prediction
            records[name] = measure(sample, prediction, reference, truth=self._truth)
            # The reference runs again for new models only; its cached record stays unchanged.
            if self._record_cache and cached is None:
                self._record_cache.put(name, sample, records[name])
        return records


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
