"""Outliers: fold only the normalisations with a channel that reaches much further than the others.

See docs/method.md, “Folding”.
"""

from collections.abc import Mapping, Sequence

from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.plan import BitPlan
from mixqsam.progress import Progress
from mixqsam.quantization.meter import Meter
from mixqsam.quantization.steps.folding import Rows, fold_some, measure_reach, split_channels
from mixqsam.sam.hooks import Watcher
from mixqsam.sam.load import Sam
from mixqsam.sam.norms import ReadNorm, find_read_norms

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
    meter.find(progress)
    found = meter.norms_with_outliers()
    return fold_some(sam, plan, samples, cache, progress, norms=found) if found else sam


class OutlierMeter(Meter):
    """Finds how many times further the widest channel of a normalisation reaches than its median one.

    Args:
        sam: the float model.
        samples: calibration images; the first four show whether there are outliers.
        cache: keeps what was found.
    """

    kind, label, version = "outliers", "Outliers", 1

    def __init__(self, sam: Sam, samples: Sequence[Sample], *, cache: Cache) -> None:
        super().__init__(sam, samples[:OUTLIER_IMAGES], settings=[], cache=cache)
        self._norms = find_read_norms(sam.config)
        self._rows = Rows(sam, [norm.units[0] for norm in self._norms], images=len(self.samples))

    def norms_with_outliers(self) -> list[ReadNorm]:
        """The normalisations that have a channel far beyond the others, as far as that is known."""
        found = self.found
        return [] if found is None else [norm for norm in self._norms if found[norm.name] >= _OUTLIER]

    def _watchers(self) -> Mapping[str, Watcher]:
        return self._rows.watchers()

    def _conclude(self) -> dict[str, float]:
        rows, found = self._rows.found(), {}
        for norm in self._norms:
            channels = len(self._sam.model.get_submodule(norm.name).weight)
            reach = measure_reach(split_channels(rows[norm.units[0]], channels))
            found[norm.name] = float(reach.max() / reach.median())
        return found
