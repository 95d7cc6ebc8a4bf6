"""Folding: move factors and shifts of a normalisation's channels into the weights behind it, by an exact rewrite.

See docs/method.md, “Folding”.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from mixqsam.calibrate import identify_passes, run_sample
from mixqsam.data.samples import Sample, space_evenly
from mixqsam.files import Cache, digest
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.half import HalfTensor
from mixqsam.numeric.moments import position_count, rows_at
from mixqsam.numeric.observers import OBSERVERS, Statistics
from mixqsam.numeric.weights import project_weight, weight_grid
from mixqsam.plan import HALF_BITS, BitPlan, UnitBits
from mixqsam.progress import Progress
from mixqsam.quantization.nearest import draft
from mixqsam.sam.hooks import Watcher, watched
from mixqsam.sam.load import Sam
from mixqsam.sam.norms import ReadNorm, find_read_norms

# Increase it when what is kept of a model changes its meaning.
_VERSION = 1
# Positions of all images together on which folds are compared, and the images that they come from, each with a pass.
_POSITIONS = 2048
FOLDING_IMAGES = 8
# Share of a channel's reach that its factor follows; 1 makes all channels reach equally far.
_STRENGTHS = (0.5, 0.75, 1.0)
# A channel's reach: so much of its values lies within.
_WITHIN = 0.999
_OBSERVER = "omse"
_TINY = 1e-6


@dataclass(frozen=True)
class Fold:
    """What a normalisation's channels are shifted by, and then divided by.

    Attributes:
        shift: [channels].
        factor: [channels], positive.
    """

    shift: Tensor
    factor: Tensor


def fold_norms(sam: Sam, plan: BitPlan, samples: Sequence[Sample], cache: Cache, progress: Progress) -> Sam:
    """Fold the encoder's normalisations, where that lowers the error of the units behind them.

    A normalisation's output x becomes (x − μ)/s, channel by channel; the weights of the units that read it are
    multiplied by s, and their biases take up W·μ. The float model's outputs stay as they were.

    Args:
        sam: the float model; it is not changed.
        plan: the bits at which folds are compared.
        samples: calibration images; eight evenly spaced ones are used.
        cache: keeps what was found.
        progress: receives steps.

    Returns:
        The rewritten model; tensors that did not change are shared with `sam`.
    """
    return fold_some(sam, plan, samples, cache, progress, norms=find_read_norms(sam.config))


def fold_some(
    sam: Sam, plan: BitPlan, samples: Sequence[Sample], cache: Cache, progress: Progress, *, norms: Sequence[ReadNorm]
) -> Sam:
    """As `fold_norms`, for some of the normalisations."""
    samples = space_evenly(samples, count=min(FOLDING_IMAGES, len(samples)))
    compared = {name: str(plan.bits[name]) for norm in norms for name in norm.units}
    key = digest(_VERSION, *identify_passes(sam, samples), compared)
    found: dict[str, list[list[float]]] | None = cache.get("folding", key)
    if found is None:
        folds = find_folds(sam, plan, samples, norms, progress=progress)
        found = {name: [fold.shift.tolist(), fold.factor.tolist()] for name, fold in folds.items()}
        cache.put("folding", key, found)
    folded = draft(sam)
    for norm in norms:
        if norm.name in found:
            apply_fold(folded.model, norm, Fold(*(torch.tensor(values) for values in found[norm.name])))
    return folded


def find_folds(
    sam: Sam, plan: BitPlan, samples: Sequence[Sample], norms: Sequence[ReadNorm], *, progress: Progress
) -> dict[str, Fold]:
    """Normalisation → its best fold; those that are best left alone have none."""
    rows = read_rows(sam, samples, [unit for norm in norms for unit in norm.units], label="Folding", progress=progress)
    found = {}
    for norm in norms:
        readers = [_Reader(sam.model.get_submodule(unit), rows.pop(unit), plan.bits[unit]) for unit in norm.units]
        fold = _choose(readers, shifts=not norm.is_padded)
        if fold is not None:
            found[norm.name] = fold
    return found


def read_rows(
    sam: Sam, samples: Sequence[Sample], units: Sequence[str], *, label: str, progress: Progress
) -> dict[str, Tensor]:
    """Unit → what its weight meets at some positions of all images, [positions, d]."""
    rows = Rows(sam, units, images=len(samples))
    with torch.no_grad(), watched(sam.model, rows.watchers()):
        for sample in progress.track(samples, label=label, total=len(samples)):
            run_sample(sam, sample)
    return rows.found()


class Rows:
    """Collects what some units' weights meet, while images pass through the model.

    Args:
        sam: the model.
        units: their names.
        images: that will pass.
    """

    def __init__(self, sam: Sam, units: Sequence[str], *, images: int) -> None:
        self._sam, self._count = sam, -(-_POSITIONS // images)
        self._rows: dict[str, list[Tensor]] = {unit: [] for unit in units}

    def watchers(self) -> dict[str, Watcher]:
        """What watches the units."""
        return {unit: partial(self._keep, unit) for unit in self._rows}

    def found(self) -> dict[str, Tensor]:
        """Give up the rows: unit → what its weight met, [positions, d]."""
        return {unit: torch.cat(self._rows.pop(unit)) for unit in list(self._rows)}

    def _keep(self, unit: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        layer, rows = self._sam.model.get_submodule(unit), self._rows[unit]
        positions = torch.randperm(
            position_count(layer, inputs[0].shape), generator=torch.Generator().manual_seed(len(rows))
        )
        rows.append(rows_at(layer, inputs[0], positions[: self._count].to(inputs[0].device))[0].clone())


class _Reader:
    """A unit behind a normalisation, and the error of its output for a fold."""

    def __init__(self, layer: nn.Module, rows: Tensor, bits: UnitBits) -> None:
        assert isinstance(layer.weight, Tensor)  # noqa: S101  (narrows the type of nn.Module's attribute)
        self.rows, self._bits = rows, bits
        self.channels = layer.weight.shape[1]
        self.weight = layer.weight.detach().reshape(len(layer.weight), -1)
        self.has_bias = layer.bias is not None
        self._output = rows @ self.weight.T

    @property
    def is_quantized(self) -> bool:
        return min(self._bits.weight, self._bits.activation) < HALF_BITS

    def by_channel(self, values: Tensor) -> Tensor:
        """Rows [n, d] with the values of a channel together, [n·d/C, C]."""
        return split_channels(values, self.channels)

    def error(self, fold: Fold) -> float:
        """Squared error of the output at the reader's bits, as a share of the output's own variance."""
        shift, factor = (self._spread(one) for one in (fold.shift, fold.factor))
        weight, rows = self.weight * factor, (self.rows - shift) / factor
        output = self._rounded(rows) @ self._rounded_weight(weight).T
        # The bias takes up W·μ in float.
        error = (output - (self._output - shift @ self.weight.T)).square().mean()
        return float(error / self._output.var().clamp(min=_TINY))

    def _spread(self, values: Tensor) -> Tensor:
        return values.repeat_interleave(self.weight.shape[1] // self.channels)

    def _rounded(self, rows: Tensor) -> Tensor:
        bits = self._bits.activation
        if bits >= HALF_BITS:
            return rows
        seen = Statistics()
        seen.update(rows, name="a folded normalisation")
        low, high = OBSERVERS[_OBSERVER](seen, bits=bits)
        return AffineGrid.from_range(torch.tensor(low), torch.tensor(high), bits=bits).project(rows)

    def _rounded_weight(self, weight: Tensor) -> Tensor:
        bits, name = self._bits.weight, "a folded weight"
        if bits >= HALF_BITS:
            return HalfTensor.nearest(weight, name=name).dequantize()
        return project_weight(weight, weight_grid(weight, bits=bits, observer=_OBSERVER, name=name))


def _choose(readers: Sequence[_Reader], *, shifts: bool) -> Fold | None:
    """The fold with the least error of all readers together; None for none."""
    first = readers[0]
    nothing = Fold(torch.zeros(first.channels), torch.ones(first.channels))
    if not any(reader.is_quantized for reader in readers):
        return None
    best, least = None, sum(reader.error(nothing) for reader in readers)
    for fold in _candidates(readers, shifts=shifts and all(reader.has_bias for reader in readers)):
        error = sum(reader.error(fold) for reader in readers)
        if error < least:
            best, least = fold, error
    return best


def _candidates(readers: Sequence[_Reader], *, shifts: bool) -> Iterator[Fold]:
    values = readers[0].by_channel(readers[0].rows)
    still = torch.zeros(values.shape[1])
    weights = torch.cat([reader.by_channel(reader.weight) for reader in readers]).abs().amax(0).clamp(min=_TINY)
    centre = values.mean(0)
    if shifts:
        yield Fold(centre, torch.ones_like(still))
    for shift, strength in product((still, centre) if shifts else (still,), _STRENGTHS):
        reach = measure_reach(values - shift)
        factor = reach**strength / weights ** (1 - strength)
        yield Fold(shift, factor / factor.log().mean().exp())


def split_channels(rows: Tensor, channels: int) -> Tensor:
    """Rows [n, d] that a weight meets, with the values of a channel together, [n·d/channels, channels]."""
    return rows.reshape(len(rows), channels, -1).transpose(1, 2).reshape(-1, channels)


def measure_reach(values: Tensor) -> Tensor:
    """How far each channel of [n, channels] reaches: what 99.9% of its absolute values do not exceed."""
    rank = max(1, round(len(values) * _WITHIN))
    return values.abs().kthvalue(rank, dim=0).values.clamp(min=_TINY)


def apply_fold(model: nn.Module, norm: ReadNorm, fold: Fold) -> None:
    """Put a fold into a model; its modules are replaced, not written to.

    Args:
        model: a draft.
        norm: the normalisation, and the units that read it.
        fold: what becomes of its output.
    """
    source = model.get_submodule(norm.name)
    assert isinstance(source, nn.LayerNorm)  # noqa: S101  (only such are found)
    changed = copy.deepcopy(source)
    factor, shift = fold.factor.to(source.weight), fold.shift.to(source.weight)
    changed.weight = _frozen(source.weight / factor)
    changed.bias = _frozen((source.bias - shift) / factor)
    model.set_submodule(norm.name, changed)
    for unit in norm.units:
        model.set_submodule(unit, _scaled(model.get_submodule(unit), factor, shift))


def _scaled(source: nn.Module, factor: Tensor, shift: Tensor) -> nn.Module:
    assert isinstance(source, nn.Linear | nn.Conv2d)  # noqa: S101  (only such are found)
    changed = copy.deepcopy(source)
    weight = source.weight.detach()
    changed.weight = _frozen(weight * factor.reshape(1, -1, *[1] * (weight.dim() - 2)))
    if source.bias is not None and bool(shift.any()):
        changed.bias = _frozen(source.bias + weight.reshape(len(weight), len(shift), -1).sum(-1) @ shift)
    return changed


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach(), requires_grad=False)
