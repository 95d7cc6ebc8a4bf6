"""Outliers: fold only the normalisations with a channel that reaches much further than the others.

See docs/method.md, “Folding”.
"""

from collections.abc import Sequence

from mixqsam.data.samples import Sample
from mixqsam.files import Cache, digest
from mixqsam.plan import BitPlan
from mixqsam.progress import Progress
from mixqsam.quantization.steps.folding import fold_some, measure_reach, read_rows, split_channels
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
    norms = find_read_norms(sam.config)
    few = samples[:OUTLIER_IMAGES]
    key = digest(_VERSION, sam.fingerprint, [sample.digest() for sample in few])
    reaches: dict[str, float] | None = cache.get("outliers", key)
    if reaches is None:
        reaches = measure_outliers(sam, few, norms, progress=progress)
        cache.put("outliers", key, reaches)
    found = [norm for norm in norms if reaches[norm.name] >= _OUTLIER]
    return fold_some(sam, plan, samples, cache, progress, norms=found) if found else sam


def measure_outliers(
    sam: Sam, samples: Sequence[Sample], norms: Sequence[ReadNorm], *, progress: Progress
) -> dict[str, float]:
    """Normalisation → how many times further its widest channel reaches than its median one."""
    first = {norm.name: norm.units[0] for norm in norms}
    rows = read_rows(sam, samples, list(first.values()), label="Outliers", progress=progress)
    found = {}
    for name, unit in first.items():
        channels = len(sam.model.get_submodule(name).weight)
        reach = measure_reach(split_channels(rows[unit], channels))
        found[name] = float(reach.max() / reach.median())
    return found
