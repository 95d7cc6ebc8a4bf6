"""Meters: what is found out about a model while some calibration images pass through it, and kept."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch

from mixqsam.calibrate import identify_passes, run_sample
from mixqsam.data.samples import Sample
from mixqsam.files import Cache, digest
from mixqsam.progress import Progress
from mixqsam.sam.hooks import Watcher, watched
from mixqsam.sam.load import Sam


class Meter(ABC):
    """Finds a number for each of several modules; where the numbers are known, nothing is watched.

    Args:
        sam: the float model.
        samples: the calibration images that count.
        settings: what else the numbers depend on.
        cache: keeps them.

    Attributes:
        kind: names the numbers in the cache.
        label: names a pass of its own in the progress.
        version: has to increase when the numbers change their meaning.
        samples: the images that count.
        found: name → number; None until all images that count have passed.
    """

    kind: ClassVar[str]
    label: ClassVar[str]
    version: ClassVar[int]

    def __init__(self, sam: Sam, samples: Sequence[Sample], *, settings: Sequence[object], cache: Cache) -> None:
        self.samples = list(samples)
        self._sam, self._cache, self._seen = sam, cache, 0
        self._key = digest(self.version, *identify_passes(sam, samples), *settings)
        self.found: dict[str, float] | None = cache.get(self.kind, self._key)

    @contextmanager
    def watching(self, sample: Sample) -> Iterator[None]:
        """While this is open, the sample passes through the model; one that does not count is not watched."""
        if self.found is not None or not any(sample is one for one in self.samples):
            yield
            return
        with watched(self._sam.model, self._watchers()):
            yield
        self._seen += 1
        if self._seen == len(self.samples):
            self.found = self._conclude()
            self._cache.put(self.kind, self._key, self.found)

    def find(self, progress: Progress) -> dict[str, float]:
        """The numbers; unless they are known, the images pass through the model for them."""
        if self.found is None:
            with torch.no_grad():
                for sample in progress.track(self.samples, label=self.label, total=len(self.samples)):
                    with self.watching(sample):
                        run_sample(self._sam, sample)
        assert self.found is not None  # noqa: S101  (all images have passed)
        return self.found

    @abstractmethod
    def _watchers(self) -> Mapping[str, Watcher]:
        """What watches the modules while an image that counts passes."""

    @abstractmethod
    def _conclude(self) -> dict[str, float]:
        """The numbers, from all images; what was collected for them is given up."""
