"""Run predictors over images, each with one or several sets of prompts; records of finished images are cached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from mixqsam.data.images import note_skipped
from mixqsam.data.prefetch import opened
from mixqsam.data.samples import Sample
from mixqsam.errors import ImageError
from mixqsam.evaluation.coco import Truth
from mixqsam.evaluation.record import Record, measure
from mixqsam.files import Cache, digest
from mixqsam.parallel.engine import Engine, combine, take_share
from mixqsam.prediction import Prediction, Predictor
from mixqsam.progress import Progress

# Predictor's name → record.
Records = dict[str, Record]
# Name of a set of prompts, and the index of a sample in it.
_Place = tuple[str, int]


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


def make_records(
    predictors: Mapping[str, Predictor],
    prompt_sets: Mapping[str, Sequence[Sample]],
    *,
    truth: Truth | None,
    progress: Progress,
    best_of_three: bool,
    engine: Engine,
    record_cache: RecordCache | None,
) -> dict[str, dict[int, Records]]:
    """Record every predictor on every sample with prompts; each predictor encodes an image once for all its samples.

    Images are decoded ahead and evaluated one at a time. Memory holds only figures and encoded masks of each.

    Args:
        predictors: name → model; the first is the reference.
        prompt_sets: name → samples. Samples of an image differ in their prompts.
        truth: annotations to score against; None for fidelity alone.
        progress: receives the progress of each image.
        best_of_three: let the models choose among three masks.
        engine: the group of processes that share the images; all get the same records.
        record_cache: cache of the records; None without a cache.

    Returns:
        Set's name → index of the sample → records. Samples of unreadable images are missing.

    Raises:
        ImageError: no image can be read.
        ParallelError: a process was lost.
    """
    if truth is not None and record_cache is not None:
        record_cache = record_cache.for_truth(truth)
    runner = _ImageRunner(predictors, truth, record_cache, best_of_three=best_of_three)
    images = _group_by_image(prompt_sets)
    share: dict[int, list[Records] | str] = {}
    new: list[tuple[int, Sample]] = []
    for index, places in take_share(engine, images):
        cached = [runner.find_records(sample) for sample in places.values()]
        complete = [records for records in cached if records is not None]
        if len(complete) == len(cached):
            share[index] = complete
        else:
            new.append((index, next(iter(places.values()))))
    for index, _, image in progress.track(opened(new), label="Evaluating", total=len(new)):
        samples = list(images[index].values())
        share[index] = str(image) if isinstance(image, ImageError) else runner.try_run(samples, image)
    finished = combine(engine, share, count=len(images))
    note_skipped([reason for reason in finished if isinstance(reason, str)], total=len(images), progress=progress)
    found: dict[_Place, Records] = {}
    for places, of_image in zip(images, finished, strict=True):
        if not isinstance(of_image, str):
            found |= zip(places, of_image, strict=True)
    return {
        name: {index: found[name, index] for index in range(len(samples)) if (name, index) in found}
        for name, samples in prompt_sets.items()
    }


def _group_by_image(prompt_sets: Mapping[str, Sequence[Sample]]) -> list[dict[_Place, Sample]]:
    """Group the samples with prompts by their image, in the order in which images first occur."""
    groups: dict[object, dict[_Place, Sample]] = {}
    for name, samples in prompt_sets.items():
        for index, sample in enumerate(samples):
            if len(sample.prompts):
                # Files of boxes may claim other ids or sizes of an image; opening it then checks each claim.
                image = sample.path, sample.image_id, sample.width, sample.height
                groups.setdefault(image, {})[name, index] = sample
    return list(groups.values())


class _ImageRunner:
    """Runs the predictors on one image at a time."""

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

    def find_records(self, sample: Sample) -> Records | None:
        """Return the records of all predictors, or None if one is not cached."""
        records = {name: self._find_record(name, sample) for name in self._predictors}
        cached = {name: record for name, record in records.items() if record is not None}
        return cached if len(cached) == len(records) else None

    def _find_record(self, name: str, sample: Sample) -> Record | None:
        return None if self._record_cache is None else self._record_cache.get(name, sample)

    def try_run(self, samples: Sequence[Sample], image: Image.Image) -> list[Records] | str:
        """Return the records of an image's samples, or the reason why a model cannot take the image."""
        encoded: set[str] = set()
        try:
            return [self.find_records(sample) or self._run(sample, image, encoded) for sample in samples]
        except ImageError as error:
            return f"{samples[0].path}: {error}"

    def _run(self, sample: Sample, image: Image.Image, encoded: set[str]) -> Records:
        """Run the reference and the predictors without cached records; `encoded` names those that hold the image."""
        records: Records = {}
        reference: Prediction | None = None
        for name, predictor in self._predictors.items():
            cached = self._find_record(name, sample)
            if cached is not None and name != self._reference:
                records[name] = cached
                continue
            if name not in encoded:
                predictor.set_image(image)
                encoded.add(name)
            prediction = predictor.segment(sample.prompts, multimask=self._best_of_three)
            prediction = prediction.best() if self._best_of_three else prediction
            reference = reference or prediction
            records[name] = measure(sample, prediction, reference, truth=self._truth)
            # The reference runs again for new models only; its cached record stays unchanged.
            if self._record_cache and cached is None:
                self._record_cache.put(name, sample, records[name])
        return records
