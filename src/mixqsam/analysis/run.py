"""The whole analysis, image by image; each image's measurements are kept, so that a killed run goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mixqsam.analysis.ablation import ablate, importance, interaction, proximity
from mixqsam.analysis.fisher import fisher_sensitivity
from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.analysis.sensitivity import QuantizedVariants
from mixqsam.analysis.variants import Prefix, run_prefix
from mixqsam.calibrate import Ranges, WeightGrids
from mixqsam.data.samples import Sample
from mixqsam.errors import NumericError
from mixqsam.files import Cache, digest
from mixqsam.parallel.engine import Alone, Engine, combine, share
from mixqsam.plan import Analysis, Vector
from mixqsam.progress import Progress
from mixqsam.sam.load import Sam

# Raised when what a measurement means changes, so that old ones in the cache are not taken for new.
_VERSION = 1

# P_Y definition → flat list of KLs of one image.
Measured = dict[str, list[float]]
# The plain pass over an image and a label for the progress → what is measured.
Measurement = Callable[[Prefix, str], Measured]


@dataclass(frozen=True)
class Measurements:
    """What to measure.

    Attributes:
        importance: ablate each unit (for the importance and the synergy estimator `proximity`).
        pairs: ablate adjacent units together too (for the synergy estimator `interaction`).
        sensitivity_bits: bit-widths at which each unit alone is quantized; none: do not measure.
        fisher: P_Y definitions for which the Fisher sensitivity is measured; none: do not measure.
    """

    importance: bool = True
    pairs: bool = True
    sensitivity_bits: tuple[int, ...] = ()
    fisher: tuple[str, ...] = ()


def analyze(
    sam: Sam,
    samples: Sequence[Sample],
    *,
    ranges: Ranges | None,
    weights: WeightGrids,
    wanted: Measurements,
    cache: Cache,
    progress: Progress,
    engine: Engine | None = None,
) -> Analysis:
    """Measure what is wanted of importance, synergy and sensitivities of all units.

    Args:
        sam: the float model.
        samples: calibration images with prompts.
        ranges: activations' ranges, for the sensitivities; None where none is wanted.
        weights: weights' grids, for the sensitivities.
        wanted: what to measure.
        cache: keeps each image's measurements.
        progress: is told about images.
        engine: the group of processes that share the images.

    Raises:
        NumericError: the model's output is not finite.
    """
    costs = sam.costs()
    names = [unit.name for unit in costs.units]
    neighbours = list(pairwise(names)) if wanted.pairs else []
    quantized: list[QuantizedVariants] = []

    def ablation(prefix: Prefix, label: str) -> Measured:
        single, joint = ablate(sam, prefix, names=names, pairs=neighbours, progress=progress, label=label)
        return {output: single[output] + joint[output] for output in OUTPUTS}

    def sensitivity(prefix: Prefix, label: str) -> Measured:
        assert ranges is not None  # noqa: S101  (only called where the sensitivity is wanted)
        if not quantized:
            progress.note("Searching the grids of weights at every bit-width.")
            quantized.append(QuantizedVariants(sam, ranges, weights, bits=wanted.sensitivity_bits))
        return quantized[0].measure(sam, prefix, progress=progress, label=label)

    measure = _Measure(sam, cache, engine or Alone())
    omegas: dict[str, Vector] = {}
    synergies: dict[str, Vector] = {}
    if wanted.importance:
        ablated = measure(samples, ablation, stage="ablation", length=len(names) + len(neighbours))
        omegas, synergies = _summarize(ablated, count=len(names))
    sensitivities: dict[str, Vector] = {}
    if wanted.sensitivity_bits:
        settings = [list(wanted.sensitivity_bits), digest(ranges.to_json() if ranges else None)]
        length = sum(len(unit.operands) for unit in costs.units) * len(wanted.sensitivity_bits)
        measured = measure(samples, sensitivity, stage="sensitivity", length=length, settings=settings)
        arrange = QuantizedVariants.arrange
        sensitivities = {
            output: arrange(values.mean(axis=0), bits=wanted.sensitivity_bits) for output, values in measured.items()
        }
    fisher: dict[str, Vector] = {}
    for output in wanted.fisher:
        assert ranges is not None  # noqa: S101  (as above)
        fisher[output] = fisher_sensitivity(
            sam,
            samples,
            output=output,
            ranges=ranges,
            weights=weights,
            cache=cache,
            progress=progress,
            engine=engine or Alone(),
        )
    return Analysis(sam.source, len(samples), costs, omegas, synergies, sensitivities, wanted.sensitivity_bits, fisher)


def _summarize(ablated: dict[str, Vector], *, count: int) -> tuple[dict[str, Vector], dict[str, Vector]]:
    """KLs of so many units, then perhaps of pairs → importance and synergy."""
    divergences = {output: values[:, :count] for output, values in ablated.items()}
    omegas = {output: importance(values) for output, values in divergences.items()}
    synergies = {f"proximity/{output}": proximity(values) for output, values in divergences.items()}
    for output, values in ablated.items():
        if values.shape[1] > count:
            synergies[f"interaction/{output}"] = interaction(divergences[output], values[:, count:])
    return omegas, synergies


class _Measure:
    """Measures images one at a time and keeps each result."""

    def __init__(self, sam: Sam, cache: Cache, engine: Engine) -> None:
        self._sam, self._cache, self._engine = sam, cache, engine

    def __call__(
        self,
        samples: Sequence[Sample],
        measure: Measurement,
        *,
        stage: str,
        length: int,
        settings: Sequence[object] = (),
    ) -> dict[str, Vector]:
        """P_Y definition → [images, length]; of a longer result that is kept, the beginning is what is asked for."""
        own: dict[int, Measured] = {}
        for index, sample in share(self._engine, samples):
            key = digest(_VERSION, self._sam.fingerprint, sample.digest(), settings)
            found: Measured | None = self._cache.get(stage, key)
            if found is None or len(found[next(iter(OUTPUTS))]) < length:
                label = f"{stage.capitalize()}, image {index + 1} of {len(samples)}"
                found = measure(run_prefix(self._sam, sample), label)
                if not all(np.isfinite(values).all() for values in found.values()):
                    raise NumericError(f"The model's output on {sample.path} is not finite; the checkpoint is damaged.")
                self._cache.put(stage, key, found)
            own[index] = found
        rows = combine(self._engine, own, count=len(samples))
        return {output: np.array([row[output][:length] for row in rows]) for output in OUTPUTS}
