"""One streaming float pass over the calibration images → a range per quantized activation and bit-width."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mixqsam.data.samples import Sample
from mixqsam.errors import ArtifactError, shortened
from mixqsam.files import Cache, digest
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.channel_statistics import ChannelStatistics
from mixqsam.numeric.half import Unquantized
from mixqsam.numeric.observers import OBSERVERS, Range, Statistics
from mixqsam.numeric.quantizers import ActivationQuantizer, ChannelQuantizer, Quantizer
from mixqsam.parallel.engine import Engine, SingleProcess, take_share
from mixqsam.plan import CANDIDATE_BITS, HALF_BITS, Operand
from mixqsam.progress import Progress
from mixqsam.sam.forward import decode, encode, make_frame, prompt_tensors
from mixqsam.sam.hooks import Watcher, watched
from mixqsam.sam.load import Sam
from mixqsam.sam.rough import multiplies_roughly, rough_pass
from mixqsam.sam.units import operand_taps

# Raised when what a calibration means changes, so that old ones in the cache are not taken for new.
_VERSION = 3

# Given a sample, a context in which it passes through the model.
Watch = Callable[[Sample], AbstractContextManager[None]]
# (unit, operand) → what was seen of it.
_Seen = dict[tuple[str, Operand], Statistics]
# Unit → what was seen of its input's channels.
_SeenChannels = dict[str, ChannelStatistics]


@dataclass(frozen=True)
class Ranges:
    """Where to cut every quantized activation.

    Attributes:
        observer: how the ranges were chosen.
        values: unit → operand (`input`, or `left` and `right`) → bits → (low, high).
        channels: depthwise unit → bits → (low, high) of each channel of its input.
    """

    observer: str
    values: Mapping[str, Mapping[Operand, Mapping[int, Range]]]
    channels: Mapping[str, Mapping[int, Sequence[Range]]] = field(default_factory=dict)

    def grid(self, unit: str, *, operand: Operand, bits: int) -> AffineGrid:
        """One grid for all of an activation; integer kernels take a right operand where they take weights."""
        low, high = self.values[unit][operand][bits]
        return AffineGrid.from_range(torch.tensor(low), torch.tensor(high), bits=bits, signed=operand == "right")

    def quantizer(self, unit: str, *, operand: Operand, bits: int) -> ActivationQuantizer:
        """What quantizes an activation where no recipe says otherwise: on one grid, or on one for each channel.

        An activation of 16 bits is left as it is.
        """
        if bits == HALF_BITS:
            return Unquantized()
        if operand == "input" and unit in self.channels:
            low, high = torch.tensor(self.channels[unit][bits]).unbind(1)
            return ChannelQuantizer.from_range(low, high, bits=bits)
        return Quantizer(self.grid(unit, operand=operand, bits=bits))

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        channels = {
            unit: {str(bits): [list(one) for one in ranges] for bits, ranges in per_bits.items()}
            for unit, per_bits in self.channels.items()
        }
        return ({"channels": channels} if channels else {}) | {
            "observer": self.observer,
            "values": {
                unit: {
                    operand: {str(b): list(r) for b, r in per_bits.items()} for operand, per_bits in operands.items()
                }
                for unit, operands in self.values.items()
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
                    operand: {int(b): (float(r[0]), float(r[1])) for b, r in per_bits.items()}
                    for operand, per_bits in operands.items()
                }
                for unit, operands in value["values"].items()
            }
            channels = {
                unit: {int(b): [(float(low), float(high)) for low, high in ranges] for b, ranges in per_bits.items()}
                for unit, per_bits in value.get("channels", {}).items()
            }
            return cls(str(value["observer"]), values, channels)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ArtifactError(f"The calibration is malformed ({shortened(repr(error))}).") from error


def depthwise_units(sam: Sam) -> list[str]:
    """The units whose inputs have a grid for each channel."""
    return [unit.name for unit in sam.costs().units if unit.role == "depthwise"]


def run_sample(sam: Sam, sample: Sample) -> None:
    """One pass of a float model's encoder and decoder over a sample, for those who watch its modules.

    Statistics do not need the last digits: large products are made in bfloat16, where the processor has it.

    Raises:
        ImageError: the image cannot be read.
    """
    frame = make_frame(sam, sample.open())
    with rough_pass(sam):
        decode(sam, encode(sam, frame), prompt_tensors(sam, sample.prompts, frame))


def name_rounding(sam: Sam, samples: Sequence[Sample]) -> list[str]:
    """Name how `run_sample` rounds products, for the keys of what is found: caches may move between processors.

    Returns:
        The type of the operands; empty where all products are float32.
    """
    prompts = max((len(sample.prompts) for sample in samples), default=0)
    return ["bfloat16"] if multiplies_roughly(sam, prompts=prompts) else []


def identify_passes(sam: Sam, samples: Sequence[Sample]) -> list[object]:
    """Identify what passes of a float model over samples show, for the keys of what is found from them."""
    return [sam.fingerprint, [sample.digest() for sample in samples], *name_rounding(sam, samples)]


def cached_ranges(
    sam: Sam,
    samples: Sequence[Sample],
    *,
    observer: str,
    cache: Cache,
    progress: Progress,
    engine: Engine | None = None,
    watch: Watch | None = None,
) -> Ranges:
    """`calibrate`, or the finished calibration of the same model, samples and observer; `watch` then sees nothing."""
    engine = engine or SingleProcess()
    # Models without depthwise convolutions find what was kept before there were ranges of channels.
    channels = ["channels"] if depthwise_units(sam) else []
    key = digest(_VERSION, *identify_passes(sam, samples), observer, *channels)
    # What one process finds the others may not yet see: rank 0 decides for all.
    found = engine.gather(cache.get("calibration", key))[0]
    if found is not None:
        return Ranges.from_json(found)
    with cache.lock("calibration", key, is_main_process=engine.rank == 0):
        found = engine.gather(cache.get("calibration", key))[0]
        if found is not None:  # a process that we waited for has done it
            return Ranges.from_json(found)
        ranges = calibrate(sam, samples, observer=observer, progress=progress, engine=engine, watch=watch)
        if engine.rank == 0:
            cache.put("calibration", key, ranges.to_json())
        return ranges


def calibrate(
    sam: Sam,
    samples: Sequence[Sample],
    *,
    observer: str,
    progress: Progress,
    engine: Engine | None = None,
    watch: Watch | None = None,
) -> Ranges:
    """Run the float model over the samples once and choose ranges for 2 to 8 bits.

    Memory does not grow with the number of images: each activation is reduced to a histogram as it passes. Processes
    of a group share the images; the ranges are the same, whatever their number.

    Args:
        sam: the float model.
        samples: calibration images.
        observer: how ranges are chosen.
        progress: receives the progress.
        engine: the group of processes.
        watch: is open while a sample of this process passes, for whoever needs a pass over the same images.

    Raises:
        NumericError: an activation is not finite.
        ImageError: an image cannot be read.
    """
    seen, seen_channels = _gathered(sam, samples, progress, engine or SingleProcess(), watch or _ignore)
    choose, label = OBSERVERS[observer], f"Ranges ({observer})"
    values: dict[str, dict[Operand, dict[int, Range]]] = {}
    for (unit, operand), one in progress.track(seen.items(), label=label, total=len(seen)):
        values.setdefault(unit, {})[operand] = {bits: choose(one, bits=bits) for bits in CANDIDATE_BITS}
    channels: dict[str, dict[int, list[Range]]] = {}
    for unit, each in progress.track(seen_channels.items(), label=f"{label}, channels", total=len(seen_channels)):
        single = list(each.channels())
        channels[unit] = {bits: [choose(one, bits=bits) for one in single] for bits in CANDIDATE_BITS}
    return Ranges(observer, values, channels)


def _ignore(sample: Sample) -> AbstractContextManager[None]:
    del sample
    return nullcontext()


def _gathered(
    sam: Sam, samples: Sequence[Sample], progress: Progress, engine: Engine, watch: Watch
) -> tuple[_Seen, _SeenChannels]:
    """Statistics of all samples; each process runs its share, and the first sample's ranges are everyone's base."""
    seen: _Seen = {}
    channels: _SeenChannels = {}
    own = [sample for _, sample in take_share(engine, samples)]
    tracked = progress.track(own, label="Calibrating", total=len(own))
    with _observed(sam, seen, channels):
        for index, sample in enumerate(tracked):
            with watch(sample):
                if index == 0:
                    _agree_on_bases(sam, sample, [seen, channels], engine)
                else:
                    run_sample(sam, sample)
        if not own:
            engine.gather([])
    parts = engine.gather((seen, channels))
    return _merged([part[0] for part in parts]), _merged([part[1] for part in parts])


def _merged(parts: Sequence[dict[Any, Any]]) -> dict[Any, Any]:
    """The statistics of all processes as one."""
    first, *others = parts
    merged = copy.deepcopy(first)
    for part in others:
        for key, one in part.items():
            if one.seen:
                merged[key].merge(one)
    return merged


def _agree_on_bases(sam: Sam, sample: Sample, seen: Sequence[Mapping[Any, Any]], engine: Engine) -> None:
    """Run a process's first sample, with the bases that rank 0 found on its own."""
    if engine.rank == 0:
        run_sample(sam, sample)
        engine.gather([{key: one.base for key, one in kind.items()} for kind in seen])
        return
    found: list[dict[Any, Any]] = engine.gather([])[0]
    for kind, bases in zip(seen, found, strict=True):
        for key, base in bases.items():
            kind[key].rebase(base)
    run_sample(sam, sample)


@contextmanager
def _observed(sam: Sam, seen: _Seen, channels: _SeenChannels) -> Iterator[None]:
    """While this is open, every operand of every unit is reduced into `seen`, and channels into `channels`."""
    watchers: dict[str, Watcher] = {}
    for unit in sam.costs().units:
        for operand, path in operand_taps(unit):
            statistics: list[Statistics | ChannelStatistics] = [seen.setdefault((unit.name, operand), Statistics())]
            if unit.role == "depthwise":
                statistics.append(channels.setdefault(unit.name, ChannelStatistics()))
            name = f"{unit.name} ({operand})" if unit.kind == "product" else unit.name
            watchers[path] = partial(_take_in, statistics, name)
    with watched(sam.model, watchers):
        yield


def _take_in(
    statistics: Sequence[Statistics | ChannelStatistics], name: str, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    del output
    for one in statistics:
        one.update(inputs[0], name=name)
