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
class ImageScore:
    """How near one image's masks are to the reference model's.

    Attributes:
        index: of the image among the samples.
        path: of the image.
        mean_iou: over its prompts.
    """

    index: int
    path: str
    mean_iou: float


@dataclass(frozen=True)
class Report:
    """What was measured of one model.

    Attributes:
        images: evaluated.
        prompts: evaluated.
        coco: mask AP; None without annotations.
        truth_iou: mean IoU with the annotated masks, over prompts; None where prompts are not annotations' boxes.
        fidelity: to the reference; None for the reference itself.
        by_image: the same of every image, in the order of the samples; empty for the reference itself.
        prompt_kind: what the prompts are: `grid points`, `annotated boxes`, `detector's boxes`, …
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
        """On what it was measured, in words."""
        return basis(self.images, self.prompts, self.prompt_kind)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)


@dataclass(frozen=True)
class Kept:
    """Where each image's records are kept, so that a stopped evaluation goes on.

    Attributes:
        cache: the place.
        keys: predictor's name → hash of all that its records depend on but the sample.
    """

    cache: Cache
    keys: Mapping[str, str]

    def scored_by(self, truth: Truth) -> "Kept":
        """Where records are kept whose prompts are not all scored."""
        if not truth.unmasked:
            return self
        return Kept(self.cache, {name: digest(key, "masked only") for name, key in self.keys.items()})

    def get(self, name: str, sample: Sample) -> Record | None:
        """A record, if it is known."""
        found: Record | None = self.cache.get("evaluation", digest(self.keys[name], sample.labelled_digest()))
        return found

    def put(self, name: str, sample: Sample, record: Record) -> None:
        """Keep a record."""
        self.cache.put("evaluation", digest(self.keys[name], sample.labelled_digest()), record)


def evaluate(
    predictors: Mapping[str, Predictor],
    samples: Sequence[Sample],
    *,
    annotations: Path | None,
    progress: Progress,
    best_of_three: bool = False,
    engine: Engine | None = None,
    kept: Kept | None = None,
) -> dict[str, Report]:
    """Evaluate predictors; the first is the reference of the fidelity.

    Each prompt gives one mask: the model's single one, or of its three the one that it thinks best. With annotations
    the COCO score of a mask is the predicted IoU, times the detector's score where there is one. AP is over the images
    of `samples`; those that cannot be read are named and skipped, and count as images without masks.

    Images are decoded ahead, and one at a time is worked on; of each, only figures and encoded masks are remembered.

    Args:
        predictors: name → model.
        samples: images with prompts.
        annotations: the COCO file for AP; None for fidelity alone.
        progress: is told about images.
        best_of_three: let the model choose among three masks.
        engine: the group of processes that share the images; all get the same reports, whatever their number.
        kept: where records are kept.

    Raises:
        AnnotationError: no sample has a prompt.
        ImageError: no image can be read.
        ParallelError: a process was lost.
    """
    engine = engine or SingleProcess()
    truth = None if annotations is None else _truth(annotations, progress)
    kept = kept if truth is None or kept is None else kept.scored_by(truth)
    places = [index for index, sample in enumerate(samples) if len(sample.prompts)]
    usable = [samples[index] for index in places]
    if not usable:
        raise AnnotationError("No image has a box or point to evaluate with.")
    work = _Work(predictors, truth, kept, best_of_three=best_of_three)
    own: dict[int, dict[str, Record] | str] = {}
    new: list[tuple[int, Sample]] = []
    for index, sample in take_share(engine, usable):
        known = work.known(sample)
        if known is None:
            new.append((index, sample))
        else:
            own[index] = known
    for index, sample, image in progress.track(opened(new), label="Evaluating", total=len(new)):
        own[index] = str(image) if isinstance(image, ImageError) else work.attempt(sample, image)
    records = combine(engine, own, count=len(usable))
    note_skipped([one for one in records if isinstance(one, str)], total=len(usable), progress=progress)
    good = {index: one for index, one in zip(places, records, strict=True) if not isinstance(one, str)}
    reference = next(iter(predictors))
    return {
        name: _report({i: one[name] for i, one in good.items()}, truth, samples=samples, is_reference=name == reference)
        for name in predictors
    }


def basis(images: int, prompts: int, kind: str) -> str:
    """On how many images and prompts, of which kind, something was measured."""
    of_kind = f" ({kind})" if kind else ""
    plural = ["" if count == 1 else "s" for count in (images, prompts)]
    return f"{images:,} image{plural[0]} with {prompts:,} prompt{plural[1]}{of_kind}"


def _truth(annotations: Path, progress: Progress) -> Truth:
    truth = Truth(annotations)
    if truth.unmasked:
        first = shortened(min(truth.unmasked), most=60)
        progress.note(
            f"{len(truth.unmasked)} annotations of {annotations} have no mask and are not scored; the first is "
            f"annotation {first}."
        )
    return truth


class _Work:
    """What is done with one image."""

    def __init__(
        self, predictors: Mapping[str, Predictor], truth: Truth | None, kept: Kept | None, *, best_of_three: bool
    ) -> None:
        self._predictors, self._truth, self._kept, self._best = predictors, truth, kept, best_of_three
        self._reference = next(iter(predictors))

    def known(self, sample: Sample) -> dict[str, Record] | None:
        """The records of all predictors, where they are kept."""
        if self._kept is None:
            return None
        found = {name: self._kept.get(name, sample) for name in self._predictors}
        return None if any(one is None for one in found.values()) else {n: one for n, one in found.items() if one}

    def attempt(self, sample: Sample, image: Image.Image) -> dict[str, Record] | str:
        """As `run`, or why a model cannot take the image."""
        try:
            return self.run(sample, image)
        except ImageError as error:
            return f"{sample.path}: {error}"

    def run(self, sample: Sample, image: Image.Image) -> dict[str, Record]:
        """Run the predictors whose records are not known, and the reference."""
        records: dict[str, Record] = {}
        reference: Prediction | None = None
        for name, predictor in self._predictors.items():
            known = self._kept.get(name, sample) if self._kept else None
            if known is not None and name != self._reference:
                records[name] = known
                continue
            predictor.set_image(image)
            found = predictor.segment(sample.prompts, multimask=self._best)
            found = found.best() if self._best else found
            reference = reference or found
            records[name] = measure(sample, found, reference, truth=self._truth)
            # The reference runs again for the sake of a model that is new; what is known of it stays as it is.
            if self._kept and known is None:
                self._kept.put(name, sample, records[name])
        return records


def _report(
    by_image: Mapping[int, Record], truth: Truth | None, *, samples: Sequence[Sample], is_reference: bool
) -> Report:
    records = list(by_image.values())
    ious = [iou for one in records for iou in one["ious"]]
    truth_ious = [iou for one in records for iou in one["truth_ious"]]
    kl = {output: float(np.mean([one["kl"][output] for one in records])) for output in OUTPUTS}
    images = [sample.image_id for sample in samples]
    coco = None if truth is None else truth.score([r for one in records for r in one["results"]], images=images)
    scores = [ImageScore(i, str(samples[i].path), float(np.mean(one["ious"]))) for i, one in by_image.items()]
    return Report(
        len(records),
        len(ious),
        coco,
        float(np.mean(truth_ious)) if truth_ious else None,
        None if is_reference else Fidelity(float(np.mean(ious)), kl),
        () if is_reference else tuple(scores),
        " and ".join(sorted({samples[index].prompt_kind for index in by_image})),
    )
