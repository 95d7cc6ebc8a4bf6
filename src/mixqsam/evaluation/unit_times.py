"""Times of units from the times of whole models: which models to time, and what follows from their times.

See docs/method.md, “Times of units”. A model of one unit would not tell: runtimes join units with what is around them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from mixqsam.plan import FLOAT, HALF_BITS, BitPlan, Part, Unit, UnitBits, Vector
from mixqsam.times import Arithmetic

# Groups of each part whose times are measured separately: a power of 2. Twice as many mixtures are timed.
GROUPS = 8
# What stands for an arithmetic. Codes of any number of bits are bytes in all runtimes.
_BITS: dict[Arithmetic, UnitBits] = {
    "integer": UnitBits(8, 8),
    "narrow": UnitBits(4, 4),
    "mixed": UnitBits(8, HALF_BITS),
    "half": UnitBits(HALF_BITS, HALF_BITS),
    "float": FLOAT,
}
# Multiply-adds for each value of an operand of a product: the width of a head, in most models.
_HEAD = 64
# Weight of each model of one arithmetic, in mixtures: what a budget asks for lies between these models.
_WHOLE_WEIGHT = 4.0
# Relative deviation of the median time of a model, and of a group's time from its share of the multiply-adds.
_NOISE, _SPREAD = 0.01, 1.0

# Measured as whole models alone.
_APART: tuple[Arithmetic, ...] = ("narrow", "half", "float")

Group = tuple[Unit, ...]


@dataclass(frozen=True)
class TimedPlan:
    """A model that was timed.

    Attributes:
        plan: its bits.
        encoder: seconds of an image.
        decoder: seconds of a prompt.
    """

    plan: BitPlan
    encoder: float
    decoder: float

    def seconds(self, part: Part) -> float:
        """Seconds of one part."""
        return self.encoder if part == "encoder" else self.decoder


@dataclass(frozen=True)
class FittedTimes:
    """What follows from the times of models; see `mixqsam.times.UnitTimes`.

    Attributes:
        fixed: part → seconds that no choice of bits changes.
        seconds: unit → arithmetic → seconds above its fastest one.
        error: mean relative deviation of models, each predicted from the others.
    """

    fixed: dict[Part, float]
    seconds: dict[str, dict[Arithmetic, float]]
    error: float


def uniform_plan(units: Sequence[Unit], arithmetic: Arithmetic) -> BitPlan:
    """Plan all units with one arithmetic."""
    return BitPlan({unit.name: _bits_of(unit, arithmetic) for unit in units})


def design_plans(units: Sequence[Unit]) -> list[BitPlan]:
    """Design the models to time: one of each arithmetic, and mixtures of `integer` and `mixed`.

    Each group is integer in one half of the mixtures and mixed in the other half, independently of the other groups (a
    Hadamard matrix). With each mixture comes its opposite: so what two groups take more together than apart is not
    taken for the time of a third one.
    """
    groups = [group for part in get_args(Part) for group in group_units(units, part)]
    columns = np.concatenate([np.arange(len(group_units(units, part))) for part in get_args(Part)])
    rows = hadamard(GROUPS)
    plans = []
    for row in (sign * row for row in rows for sign in (1, -1)):
        chosen: dict[str, UnitBits] = {}
        for group, column in zip(groups, columns, strict=True):
            arithmetic: Arithmetic = "integer" if row[column] > 0 else "mixed"
            chosen.update({unit.name: _bits_of(unit, arithmetic) for unit in group})
        plans.append(BitPlan({unit.name: chosen[unit.name] for unit in units}))
    return [*plans, *(uniform_plan(units, one) for one in _APART)]


def group_units(units: Sequence[Unit], part: Part) -> list[Group]:
    """Group the units of a part by what they do and how large they are; at most `GROUPS` groups.

    Small groups join another one of the same role, or else each other.
    """
    by_shape: dict[tuple[object, ...], list[Unit]] = {}
    for unit in units:
        if unit.part == part:
            by_shape.setdefault((unit.role, unit.parameters, unit.multiply_adds), []).append(unit)
    groups = [tuple(group) for group in by_shape.values()]
    while len(groups) > GROUPS:
        groups.sort(key=_work)
        roles = [group[0].role for group in groups]
        first = next((i for i, role in enumerate(roles) if roles.count(role) > 1), 0)
        second = next((i for i in range(first + 1, len(groups)) if roles[i] == roles[first]), first + 1)
        joined = groups[first] + groups[second]
        groups = [group for i, group in enumerate(groups) if i not in (first, second)] + [joined]
    return sorted(groups, key=lambda group: group[0].name)


def fit_times(units: Sequence[Unit], timed: Sequence[TimedPlan]) -> FittedTimes:
    """Fit the times of units to those of the models of `design_plans`.

    Args:
        units: of the model.
        timed: the models, in any order.
    """
    fixed: dict[Part, float] = {}
    seconds: dict[str, dict[Arithmetic, float]] = {}
    errors = []
    for part in get_args(Part):
        fit = _PartFit(units, timed, part)
        own = fit.unit_seconds()
        least = {name: min(times.values()) for name, times in own.items()}
        seconds |= {
            name: {one: float(value - least[name]) for one, value in times.items()} for name, times in own.items()
        }
        fixed[part] = max(0.0, fit.rest + sum(least.values()))
        errors.append(fit.predict_each())
    predicted, measured = (sum(pair[i] for pair in errors) for i in (0, 1))
    return FittedTimes(fixed, seconds, float(np.mean(np.abs(predicted / measured - 1))))


class _PartFit:
    """Times of the units of one part, as differences to a model whose units are all integer."""

    def __init__(self, units: Sequence[Unit], timed: Sequence[TimedPlan], part: Part) -> None:
        self._groups = group_units(units, part)
        self._whole = {
            one: float(np.mean([model.seconds(part) for model in timed if model.plan == uniform_plan(units, one)]))
            for one in _BITS
        }
        self._work = np.array([_work(group) for group in self._groups], float)
        apart = [uniform_plan(units, one) for one in _APART]
        mixtures = [one for one in timed if one.plan not in apart]
        self._mixed = np.array([[_is_mixed(one.plan, group) for group in self._groups] for one in mixtures], float)
        self._measured = np.array([one.seconds(part) for one in mixtures])
        self.rest, self._added = self._solve(np.ones(len(mixtures), bool))

    def _solve(self, used: NDArray[np.bool_]) -> tuple[float, Vector]:
        """Seconds of the integer model, and what `mixed` adds in each group: ridge regression on shares of the work."""
        mixed, measured = self._mixed[used], self._measured[used]
        share = self._work / self._work.sum()
        expected = share * (self._whole["mixed"] - self._whole["integer"])
        weights = np.where(np.isin(mixed.sum(1), (0, len(share))), _WHOLE_WEIGHT, 1.0)
        deviation = _NOISE * measured.mean()
        spread = _SPREAD * np.maximum(np.abs(expected), deviation)
        rows = np.concatenate([np.ones((len(mixed), 1)), mixed], axis=1) * (np.sqrt(weights) / deviation)[:, None]
        prior = np.concatenate([np.zeros((len(share), 1)), np.diag(1 / spread)], axis=1)
        values = np.concatenate([np.sqrt(weights) / deviation * measured, expected / spread])
        found = np.linalg.lstsq(np.concatenate([rows, prior]), values, rcond=None)[0]
        return float(found[0]), found[1:]

    def unit_seconds(self) -> dict[str, dict[Arithmetic, float]]:
        """Unit → arithmetic → seconds above the integer one."""
        units = [unit for group in self._groups for unit in group]
        whole = self._whole
        # Clipping does not make anything faster; noise may say so.
        narrow = _spread(
            max(0.0, whole["narrow"] - whole["integer"]), {unit.name: _count_values(unit) for unit in units}
        )
        # In `mixed` and in `half`, products have the same two operands of 16 bits.
        half = _spread(whole["half"] - whole["mixed"], {unit.name: _work((unit,)) for unit in units if unit.parameters})
        more = _spread(whole["float"] - whole["half"], {unit.name: _work((unit,)) for unit in units})
        found: dict[str, dict[Arithmetic, float]] = {}
        for group, work, added in zip(self._groups, self._work, self._added, strict=True):
            for unit in group:
                mixed = float(added) * _work((unit,)) / work
                halved = mixed + half.get(unit.name, 0.0)
                found[unit.name] = {
                    "integer": 0.0,
                    "narrow": narrow[unit.name],
                    "mixed": mixed,
                    "half": halved,
                    "float": halved + more[unit.name],
                }
        return found

    def predict_each(self) -> tuple[Vector, Vector]:
        """Seconds of each mixture as predicted from the others, and as measured."""
        predicted = []
        for i, mixed in enumerate(self._mixed):
            used = np.arange(len(self._mixed)) != i
            rest, added = self._solve(used)
            predicted.append(rest + float(mixed @ added))
        return np.array(predicted), self._measured


def _spread(seconds: float, shares: Mapping[str, float]) -> dict[str, float]:
    """Spread seconds over units by their shares."""
    total = sum(shares.values())
    return {name: seconds * share / total for name, share in shares.items()}


def _count_values(unit: Unit) -> float:
    """About how many values of activations a unit takes."""
    return unit.multiply_adds / (unit.channels or _HEAD)


def _bits_of(unit: Unit, arithmetic: Arithmetic) -> UnitBits:
    """A product has no weight: both of its operands are activations."""
    bits = _BITS[arithmetic]
    return UnitBits(bits.activation, bits.activation) if unit.kind == "product" else bits


def _is_mixed(plan: BitPlan, group: Group) -> bool:
    return plan.bits[group[0].name].activation == HALF_BITS


def _work(group: Sequence[Unit]) -> int:
    return sum(unit.multiply_adds for unit in group)
