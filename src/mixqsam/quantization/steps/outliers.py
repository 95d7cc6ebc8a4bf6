"""Outliers: fold only the normalisations with a channel that reaches much further than the others.

See docs/method.md, “Folding”.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from mixqsam.calibrate import run_sample
from mixqsam.data.samples import Sample
from mixqsam.files import Cache, digest
from mixqsam.plan import BitPlan
from mixqsam.progress import Progress
from mixqsam.quantization.steps.folding import Rows, fold_some, measure_reach, read_rows, split_channels
from mixqsam.sam.load import Sam
from mixqsam.sam.norms import ReadNorm, find_read_norms

# Increase it when what is kept of a model changes its meaning.
_VERSION = 1
# An outlier reaches this many times further than the median channel. Normalisations of the embedded model and of
# MobileSAM stay below 7, those of the hard twin (benchmarks/hardened.py) are above 20.
_OUTLIER = 10.0
# Outliers are the same channels in all images, so a few images show them.
OUTLIER_IMAGES = 4


def fold_outliers(sam: Sam, plan: BitPlan, samples: Sequence[Sample], cache: Cache, progress: Progress) -> Sam:
    """Fold the encoder's normalisations that have outliers, where that lowers the error of the units behind them.

    Args:
        sam: the float model; it is not changed.
        plan: the bits at which folds are compared.
        samples: calibration images; the first four show whether there are outliers.
        cache: keeps what was found.
        progress: receives steps.

    Returns:
        The rewritten model, with the float model's outputs; `sam` itself without outliers.
    """
    meter = OutlierMeter(sam, samples, cache=cache)
    if meter.reaches is None:
        with torch.no_grad():
            for sample in progress.track(meter.samples, label="Outliers", total=len(meter.samples)):
                with suppress(OutliersFound), meter.watching(sample):
                    run_sample(sam, sample)
    found = meter.norms_with_outliers()
    return fold_some(sam, plan, samples, cache, progress, norms=found) if found else sam


class OutliersFound(Exception):  # noqa: N818  (it ends a pass whose results would not be used; nothing is wrong)
    """The model is going to be rewritten."""


class OutlierMeter:
    """Finds outliers while images pass through the model, and keeps how far channels reach.

    Args:
        sam: the float model.
        samples: calibration images; the first four show whether there are outliers.
        cache: keeps what was found.

    Attributes:
        samples: those that count.
        reaches: normalisation → how many times further its widest channel reaches than its median one; None until all
            images that count have passed.
    """

    def __init__(self, sam: Sam, samples: Sequence[Sample], *, cache: Cache) -> None:
        self.samples = samples[:OUTLIER_IMAGES]
        self._sam, self._cache, self._norms = sam, cache, find_read_norms(sam.config)
        self._key = digest(_VERSION, sam.fingerprint, [sample.digest() for sample in self.samples])
        self.reaches: dict[str, float] | None = cache.get("outliers", self._key)
        self._rows = Rows(sam, [norm.units[0] for norm in self._norms], images=len(self.samples))
        self._seen = 0

    @contextmanager
    def watching(self, sample: Sample) -> Iterator[None]:
        """While this is open, the sample passes through the model; one that does not count is not watched.

        Raises:
            OutliersFound: behind the last image that counts.
        """
        if self.reaches is not None or not any(sample is one for one in self.samples):
            yield
            return
        with self._rows.read():
            yield
        self._seen += 1
        if self._seen == len(self.samples):
            self.reaches = _compare_channels(self._sam, self._norms, self._rows.found())
            self._cache.put("outliers", self._key, self.reaches)
            if self.norms_with_outliers():
                raise OutliersFound

    def norms_with_outliers(self) -> list[ReadNorm]:
        """The normalisations that have a channel far beyond the others, as far as that is known."""
        reaches = self.reaches
        return [] if reaches is None else [norm for norm in self._norms if reaches[norm.name] >= _OUTLIER]


def measure_outliers(
    sam: Sam, samples: Sequence[Sample], norms: Sequence[ReadNorm], *, progress: Progress
) -> dict[str, float]:
    """Normalisation → how many times further its widest channel reaches than its median one."""
    rows = read_rows(sam, samples, [norm.units[0] for norm in norms], label="Outliers", progress=progress)
    return _compare_channels(sam, norms, rows)


def _compare_channels(sam: Sam, norms: Sequence[ReadNorm], rows: Mapping[str, Tensor]) -> dict[str, float]:
    found = {}
    for norm in norms:
        channels = len(sam.model.get_submodule(norm.name).weight)
        reach = measure_reach(split_channels(rows[norm.units[0]], channels))
        found[norm.name] = float(reach.max() / reach.median())
    return found
