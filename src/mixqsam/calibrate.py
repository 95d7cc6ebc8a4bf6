"""One streaming float pass over the calibration images → a range per quantized activation and bit-width.

Also the grids of weights, which need no images but the same observer.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixqsam.data.samples import Sample
from mixqsam.errors import ArtifactError, shortened
from mixqsam.files import Cache, digest
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.modules import Product
from mixqsam.numeric.observers import OBSERVERS, Range, Statistics
from mixqsam.numeric.weights import weight_grid
from mixqsam.parallel.engine import Alone, Engine, share
from mixqsam.plan import CANDIDATE_BITS
from mixqsam.progress import Progress
from mixqsam.sam.forward import decode, encode, make_frame, prompt_tensors
from mixqsam.sam.load import Sam
from mixqsam.sam.units import operand_taps

# Raised when what a calibration means changes, so that old ones in the cache are not taken for new.
_VERSION = 1


@dataclass(frozen=True)
class Ranges:
    """Where to cut every quantized activation.

    Attributes:
        observer: how the ranges were chosen.
        values: unit → slot (`activation`, and `weight` for a product's right operand) → bits → (low, high).
    """

    observer: str
    values: Mapping[str, Mapping[str, Mapping[int, Range]]]

    def grid(self, unit: str, *, slot: str, bits: int) -> AffineGrid:
        """The grid of one activation at one bit-width."""
        low, high = self.values[unit][slot][bits]
        return AffineGrid.from_range(torch.tensor(low), torch.tensor(high), bits=bits, signed=slot == "weight")

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {
            "observer": self.observer,
            "values": {
                unit: {slot: {str(b): list(r) for b, r in per_bits.items()} for slot, per_bits in slots.items()}
                for unit, slots in self.values.items()
            },
        }

    @classmethod
    def from_json(cls, value: Any) -> "Ranges":
        """The inverse of `to_json`.

        Raises:
            ArtifactError: it is malformed.
        """
        try:
            values = {
                unit: {
                    slot: {int(b): (float(r[0]), float(r[1])) for b, r in per_bits.items()}
                    for slot, per_bits in slots.items()
                }
                for unit, slots in value["values"].items()
            }
            return cls(str(value["observer"]), values)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ArtifactError(f"The calibration is malformed ({shortened(repr(error))}).") from error


class WeightGrids:
    """Per-channel grids of a model's weights, each searched once, when first asked for."""

    def __init__(self, sam: Sam, *, observer: str) -> None:
        self._sam, self._observer = sam, observer
        self._known: dict[tuple[str, int], AffineGrid] = {}

    def weight(self, unit: str) -> Tensor:
        """The float weight of a linear or convolution."""
        weight = self._sam.model.get_submodule(unit).weight
        if not isinstance(weight, Tensor):
            raise TypeError(f"{unit} has no weight")
        return weight

    def grid(self, unit: str, *, bits: int) -> AffineGrid:
        """The grid of a unit's weight at one bit-width.

        Raises:
            NumericError: the weight holds NaN or infinity.
        """
        key = (unit, bits)
        if key not in self._known:
            self._known[key] = weight_grid(self.weight(unit), bits=bits, observer=self._observer, name=unit)
        return self._known[key]


class GridLibrary:
    """The weight grids of several models and observers, so that no grid is searched twice in a session."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], WeightGrids] = {}

    def of(self, sam: Sam, *, observer: str) -> WeightGrids:
        """The grids of a model's weights by an observer."""
        return self._known.setdefault((sam.fingerprint, observer), WeightGrids(sam, observer=observer))


def run_sample(sam: Sam, sample: Sample) -> None:
    """One pass of encoder and decoder over a sample, for those who watch its modules.

    Raises:
        ImageError: the image cannot be read.
    """
    frame = make_frame(sam, sample.open())
    decode(sam, encode(sam, frame), prompt_tensors(sam, sample.prompts, frame))


def cached_ranges(
    sam: Sam,
    samples: Sequence[Sample],
    *,
    observer: str,
    cache: Cache,
    progress: Progress,
    engine: Engine | None = None,
) -> Ranges:
    """`calibrate`, or the finished calibration of the same model, samples and observer."""
    engine = engine or Alone()
    key = digest(_VERSION, sam.fingerprint, [sample.digest() for sample in samples], observer)
    # What one process finds the others may not yet see: rank 0 decides for all.
    found = engine.gather(cache.get("calibration", key))[0]
    if found is not None:
        return Ranges.from_json(found)
    with cache.lock("calibration", key, wanted=engine.rank == 0):
        found = engine.gather(cache.get("calibration", key))[0]
        if found is not None:  # a process that we waited for has done it
            return Ranges.from_json(found)
        ranges = calibrate(sam, samples, observer=observer, progress=progress, engine=engine)
        if engine.rank == 0:
            cache.put("calibration", key, ranges.to_json())
        return ranges


def calibrate(
    sam: Sam, samples: Sequence[Sample], *, observer: str, progress: Progress, engine: Engine | None = None
) -> Ranges:
    """Run the float model over the samples once and choose ranges for 2 to 8 bits.

    Memory does not grow with the number of images: each activation is reduced to a histogram as it passes. Processes
    of a group share the images; the ranges are the same, whatever their number.

    Raises:
        NumericError: an activation is not finite.
        ImageError: an image cannot be read.
    """
    statistics = _gathered(sam, samples, progress, engine or Alone())
    choose = OBSERVERS[observer]
    values: dict[str, dict[str, dict[int, Range]]] = {}
    found = progress.track(statistics.items(), label=f"Ranges ({observer})", total=len(statistics))
    for (unit, slot), seen in found:
        values.setdefault(unit, {})[slot] = {bits: choose(seen, bits=bits) for bits in CANDIDATE_BITS}
    return Ranges(observer, values)


def _gathered(
    sam: Sam, samples: Sequence[Sample], progress: Progress, engine: Engine
) -> dict[tuple[str, str], Statistics]:
    """Statistics of all samples; each process runs its share, and the first sample's ranges are everyone's base."""
    statistics: dict[tuple[str, str], Statistics] = {}
    own = [sample for _, sample in share(engine, samples)]
    tracked = progress.track(own, label="Calibrating", total=len(own))
    with _observed(sam, statistics):
        for index, sample in enumerate(tracked):
            if index == 0:
                _agree_on_bases(sam, sample, statistics, engine)
            else:
                run_sample(sam, sample)
        if not own:
            engine.gather({})
    first, *others = engine.gather(statistics)
    merged = copy.deepcopy(first)
    for part in others:
        for key, seen in part.items():
            if seen.seen:
                merged[key].merge(seen)
    return merged


def _agree_on_bases(sam: Sam, sample: Sample, statistics: Mapping[tuple[str, str], Statistics], engine: Engine) -> None:
    """Run a process's first sample, with the bases that rank 0 found on its own."""
    if engine.rank == 0:
        run_sample(sam, sample)
        engine.gather({key: seen.base for key, seen in statistics.items()})
        return
    bases: dict[tuple[str, str], float] = engine.gather({})[0]
    for key, base in bases.items():
        statistics[key].rebase(base)
    run_sample(sam, sample)


@contextmanager
def _observed(sam: Sam, statistics: dict[tuple[str, str], Statistics]) -> Iterator[None]:
    """While this is open, every operand of every unit is reduced into `statistics`."""
    with ExitStack() as stack:
        for unit in sam.costs().units:
            is_product = isinstance(sam.model.get_submodule(unit.name), Product)
            for slot, module in operand_taps(sam.model, unit):
                seen = statistics[unit.name, slot] = Statistics()
                name = f"{unit.name} ({slot})" if is_product else unit.name
                stack.callback(module.register_forward_pre_hook(_into(seen, name)).remove)
        yield


def _into(statistics: Statistics, name: str):  # type: ignore[no-untyped-def]
    def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del module
        statistics.update(inputs[0], name=name)

    return observe
