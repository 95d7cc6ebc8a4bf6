"""Measure importance, synergy and sensitivity image by image; each image is cached, so that a killed run resumes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mixqsam.analysis.ablation import ablate, importance, interaction, proximity
from mixqsam.analysis.fisher import alike, measure_images, steady
from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.analysis.sensitivity import QuantizedVariants
from mixqsam.analysis.variants import Prefix, run_prefix
from mixqsam.calibrate import Ranges
from mixqsam.data.samples import Sample
from mixqsam.errors import NumericError
from mixqsam.files import Cache, digest
from mixqsam.measurements import Analysis
from mixqsam.parallel.engine import Engine, SingleProcess, combine, take_share
from mixqsam.plan import Unit, Vector
from mixqsam.progress import Progress
from mixqsam.sam.load import Sam
from mixqsam.weight_grids import WeightGrids

# Increase it when a measurement changes its meaning, so that old cached values are not used.
_VERSION = 1

# P_Y definition → flat list of KLs of one image.
Divergences = dict[str, list[float]]
# The unchanged pass over an image and a label for the progress → its divergences.
MeasureImage = Callable[[Prefix, str], Divergences]


@dataclass(frozen=True)
class MeasurementOptions:
    """Options of a measurement.

    Attributes:
        importance: ablate each unit (for the importance and the synergy estimator `proximity`).
        pairs: also ablate adjacent units together (for the synergy estimator `interaction`).
        sensitivity_bits: bit-widths at which each unit alone is quantized; empty for no sensitivity.
        fisher: P_Y definitions of the Fisher sensitivity; empty for no Fisher sensitivity.
        draws: of the Fisher sensitivity, over all images.
    """

    importance: bool = True
    pairs: bool = True
    sensitivity_bits: tuple[int, ...] = ()
    fisher: tuple[str, ...] = ()
    draws: int = 32


def analyze(
    sam: Sam,
    samples: Sequence[Sample],
    *,
    ranges: Ranges | None,
    weights: WeightGrids,
    options: MeasurementOptions,
    cache: Cache,
    progress: Progress,
    engine: Engine | None = None,
) -> Analysis:
    """Measure the requested importance, synergy and sensitivities of all units.

    Args:
        sam: the float model.
        samples: calibration images with prompts.
        ranges: ranges of the activations, for the sensitivities; None without sensitivities.
        weights: grids of the weights, for the sensitivities.
        options: quantities to measure.
        cache: stores each image's measurements.
        progress: receives the progress of each image.
        engine: the group of processes that share the images.

    Raises:
        NumericError: the model's output is not finite.
    """
    costs, engine = sam.costs(), engine or SingleProcess()
    measure = _ImageMeasurer(sam, cache, engine)
    omegas: dict[str, Vector] = {}
    synergies: dict[str, Vector] = {}
    if options.importance:
        omegas, synergies = _measure_importance(measure, samples, costs.units, pairs=options.pairs, progress=progress)
    sensitivities: dict[str, Vector] = {}
    if options.sensitivity_bits:
        assert ranges is not None  # noqa: S101  (callers have them for sensitivities)
        bits = options.sensitivity_bits
        sensitivities = _measure_sensitivity(
            measure, samples, costs.units, ranges=ranges, weights=weights, bits=bits, progress=progress
        )
    fisher: dict[str, Vector] = {}
    for output in options.fisher:
        assert ranges is not None  # noqa: S101  (as above)
        images = measure_images(
            sam,
            samples,
            output=output,
            draws=options.draws,
            ranges=ranges,
            weights=weights,
            cache=cache,
            progress=progress,
            engine=engine,
        )
        fisher[output] = steady(*alike(images))
    return Analysis(sam.source, len(samples), costs, omegas, synergies, sensitivities, options.sensitivity_bits, fisher)


def _measure_importance(
    measure: "_ImageMeasurer", samples: Sequence[Sample], units: Sequence[Unit], *, pairs: bool, progress: Progress
) -> tuple[dict[str, Vector], dict[str, Vector]]:
    """Ablate each unit, and with `pairs` each two neighbours; compute importance and synergy."""
    names = [unit.name for unit in units]
    neighbours = list(pairwise(names)) if pairs else []

    def ablation(prefix: Prefix, label: str) -> Divergences:
        single, joint = ablate(measure.sam, prefix, names=names, pairs=neighbours, progress=progress, label=label)
        return {output: single[output] + joint[output] for output in OUTPUTS}

    ablated = measure(samples, ablation, stage="ablation", length=len(names) + len(neighbours))
    return _summarize(ablated, count=len(names))


def _measure_sensitivity(
    measure: "_ImageMeasurer",
    samples: Sequence[Sample],
    units: Sequence[Unit],
    *,
    ranges: Ranges,
    weights: WeightGrids,
    bits: tuple[int, ...],
    progress: Progress,
) -> dict[str, Vector]:
    """Quantize each unit alone at each of the bit-widths."""
    quantized: list[QuantizedVariants] = []

    def sensitivity(prefix: Prefix, label: str) -> Divergences:
        # The grids are searched only where the cache lacks an image.
        if not quantized:
            progress.note("Searching the grids of weights at every bit-width.")
            quantized.append(QuantizedVariants(measure.sam, ranges, weights, bits=bits))
        return quantized[0].measure(measure.sam, prefix, progress=progress, label=label)

    settings = [list(bits), digest(ranges.to_json())]
    length = sum(len(unit.operands) for unit in units) * len(bits)
    measured = measure(samples, sensitivity, stage="sensitivity", length=length, settings=settings)
    return {output: QuantizedVariants.arrange(values.mean(axis=0), bits=bits) for output, values in measured.items()}


def _summarize(ablated: dict[str, Vector], *, count: int) -> tuple[dict[str, Vector], dict[str, Vector]]:
    """Compute importance and synergy from the KLs of `count` units, followed by those of pairs, if measured."""
    divergences = {output: values[:, :count] for output, values in ablated.items()}
    omegas = {output: importance(values) for output, values in divergences.items()}
    synergies = {f"proximity/{output}": proximity(values) for output, values in divergences.items()}
    for output, values in ablated.items():
        if values.shape[1] > count:
            synergies[f"interaction/{output}"] = interaction(divergences[output], values[:, count:])
    return omegas, synergies


class _ImageMeasurer:
    """Measures images of the model `sam` one at a time, and caches each result."""

    def __init__(self, sam: Sam, cache: Cache, engine: Engine) -> None:
        self.sam, self._cache, self._engine = sam, cache, engine

    def __call__(
        self,
        samples: Sequence[Sample],
        measure: MeasureImage,
        *,
        stage: str,
        length: int,
        settings: Sequence[object] = (),
    ) -> dict[str, Vector]:
        """Measure all images: P_Y definition → [images, length]; of a longer cached result the beginning is used."""
        measured_here: dict[int, Divergences] = {}
        for index, sample in take_share(self._engine, samples):
            key = digest(_VERSION, self.sam.fingerprint, sample.digest(), settings)
            divergences: Divergences | None = self._cache.get(stage, key)
            if divergences is None or len(divergences[next(iter(OUTPUTS))]) < length:
                label = f"{stage.capitalize()}, image {index + 1} of {len(samples)}"
                divergences = measure(run_prefix(self.sam, sample), label)
                if not all(np.isfinite(values).all() for values in divergences.values()):
                    raise NumericError(f"The model's output on {sample.path} is not finite; the checkpoint is damaged.")
                self._cache.put(stage, key, divergences)
            measured_here[index] = divergences
        rows = combine(self._engine, measured_here, count=len(samples))
        return {output: np.array([row[output][:length] for row in rows]) for output in OUTPUTS}
