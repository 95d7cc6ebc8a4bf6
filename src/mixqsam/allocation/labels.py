"""Search the chain of units for the best choice; where nothing had to be given up, the result is proven optimal.

A label is a choice of states for the first units: what it is worth and what it uses. Each step extends all labels by
the states of the next unit, and drops those that cannot lead to a better choice than the best known one:

- by a bound: the best chain of the remaining units at some prices, which ignores what the budgets still allow;
- by dominance: another label is worth more, whatever follows, and uses no more of any budget.

Every label is also completed by the best chains at these prices, so that good choices are known early. Where more
labels remain than are kept, those with the lowest bounds are given up, and their highest bound limits what was missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixqsam.allocation.cheapest import Choice
from mixqsam.allocation.lagrange import Relaxation, Rest, find_rest
from mixqsam.allocation.program import Program
from mixqsam.plan import Vector

# Bounds at several prices are tighter for labels that have used much or little so far.
_FACTORS = (1.0, 0.8, 1.25, 0.95, 1.05)
_STEPS = (0.05, 0.005)
# Groups of each cost beside the first, by which labels are compared: a table has one place for each combination.
_GROUPS = {1: 48, 2: 12}


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        choice: the best choice, or the one that the search began with.
        bound: no choice is worth more.
        crowd: the most labels that remained at a unit, before any was given up.
    """

    choice: Choice
    bound: float
    crowd: int


@dataclass(frozen=True)
class _Labels:
    """Choices of states for the first units.

    Attributes:
        values: what they are worth, [n].
        usage: what they use, [K, n].
        states: the last unit's state, [n].
    """

    values: Vector
    usage: Vector
    states: NDArray[np.int64]


# For each label, the one that it extends, and its own state.
_Origins = tuple[NDArray[np.int64], NDArray[np.int64]]


def search(program: Program, relaxation: Relaxation, *, width: int, tolerance: float) -> Search:
    """Search for a better choice than the relaxation's.

    Args:
        program: with at least one budget.
        relaxation: prices, bound and best known choice.
        width: maximum number of labels at a unit.
        tolerance: differences of the objective that are rounding.
    """
    rests = [find_rest(program, prices) for prices in _vary(relaxation.prices)]
    best, best_value = relaxation.choice, program.value(relaxation.choice)
    least = _sum_after([costs.min(axis=0) for costs in program.costs])
    most = _sum_after([costs.max(axis=0) for costs in program.costs])
    capacity = program.capacity[:, None, None]
    labels = _Labels(np.zeros(1), np.zeros((len(program.capacity), 1)), np.zeros(1, dtype=np.int64))
    missed, crowd, path = -np.inf, 0, list[_Origins]()
    for unit in range(len(program.utility)):
        values, usage = _extend(program, labels, unit)
        for rest in rests:
            completed = _complete(program, rest, unit, values, usage)
            if completed.max() > best_value:
                best = _trace(path, rest, divmod(int(completed.argmax()), completed.shape[1]))
                best_value = program.value(best)
        bounds = np.min([_bound(program, rest, unit, values, usage) for rest in rests], axis=0)
        alive = (bounds > best_value + tolerance) & (usage + least[unit][:, None, None] <= capacity).all(axis=0)
        origins, states = np.nonzero(alive)
        labels = _Labels(values[alive], usage[:, alive], states)
        order = _find_undominated(program, labels, unit, spare=program.capacity - most[unit])
        crowd = max(crowd, len(order))
        if len(order) > width:
            order = order[np.argsort(-bounds[alive][order], kind="stable")]
            missed = max(missed, float(bounds[alive][order[width]]))
            order = order[:width]
        labels = _Labels(labels.values[order], labels.usage[:, order], states[order])
        path.append((origins[order], states[order]))
        if len(order) == 0:
            break
    return Search(best, min(relaxation.bound, max(missed, best_value)), crowd)


def _vary(prices: Vector) -> list[Vector]:
    """Vary the prices of the lowest bound a little."""
    steps = np.eye(len(prices)) * prices.max()
    return [prices * factor for factor in _FACTORS] + [prices + size * step for step in steps for size in _STEPS]


def _sum_after(per_unit: Sequence[Vector]) -> Vector:
    """Sums over the units after each one: [units, K] of [K] for each unit."""
    sums = np.cumsum(np.array(per_unit)[::-1], axis=0)[::-1]
    return np.vstack([sums[1:], np.zeros_like(sums[:1])])


def _extend(program: Program, labels: _Labels, unit: int) -> tuple[Vector, Vector]:
    """Values [n, S] and usage [K, n, S] of all labels with each state of a unit."""
    values = labels.values[:, None] + program.utility[unit]
    if unit > 0:
        values = values - program.pair_costs[unit - 1][labels.states]
    return values, labels.usage[:, :, None] + program.costs[unit].T[:, None, :]


def _complete(program: Program, rest: Rest, unit: int, values: Vector, usage: Vector) -> Vector:
    """What the labels are worth with the best chains after them, [n, S]; −∞ where these exceed a budget."""
    fits = (usage + rest.usage[unit][:, None, :] <= program.capacity[:, None, None]).all(axis=0)
    return np.where(fits, values + rest.value[unit], -np.inf)


def _bound(program: Program, rest: Rest, unit: int, values: Vector, usage: Vector) -> Vector:
    """What no completion of the labels exceeds, [n, S]."""
    bound: Vector = values + (rest.priced[unit] + rest.prices @ program.capacity)
    for price, used in zip(rest.prices, usage, strict=True):
        if price:
            bound -= price * used
    return bound


def _trace(path: Sequence[_Origins], rest: Rest, place: tuple[int, int]) -> Choice:
    """The choice of a label (the one that it extends, and its own state) and the best chain after it."""
    label, state = place
    after = [state]
    for unit in range(len(path), len(rest.follower) - 1):
        after.append(int(rest.follower[unit][after[-1]]))
    before = []
    for origins, states in reversed(path):
        before.append(int(states[label]))
        label = int(origins[label])
    return np.array(before[::-1] + after, dtype=np.int64)


def _find_undominated(program: Program, labels: _Labels, unit: int, *, spare: Vector) -> NDArray[np.int64]:
    """Labels that no other one makes useless.

    Args:
        program: all units.
        labels: of the units up to `unit`.
        unit: the last unit of the labels.
        spare: what labels may use whatever follows, [K]; using less of it has no advantage.
    """
    usage = np.maximum(labels.usage, spare[:, None])
    if unit + 1 == len(program.utility) or not program.coupling[unit]:
        return np.flatnonzero(~_find_dominated(labels.values, labels.values, usage))
    alive = np.ones(len(labels.values), dtype=bool)
    for state in np.unique(labels.states):
        same = np.flatnonzero(labels.states == state)
        alive[same] = ~_find_dominated(labels.values[same], labels.values[same], usage[:, same])
    # Labels of different states lose differently to the next unit, by this much at most.
    kept, pairs = np.flatnonzero(alive), program.pair_costs[unit]
    values, states = labels.values[kept], labels.states[kept]
    at_least, at_most = values - pairs.max(axis=1)[states], values - pairs.min(axis=1)[states]
    return kept[~_find_dominated(at_most, at_least, usage[:, kept])]


def _find_dominated(at_most: Vector, at_least: Vector, usage: Vector) -> NDArray[np.bool_]:
    """Labels that another one dominates; some are missed, because costs beside the first are compared in groups.

    Args:
        at_most: what each label can be worth, [n].
        at_least: what each label is worth whatever follows, [n].
        usage: [K, n].
    """
    count = len(at_most)
    order = np.lexsort((-at_least, *usage[::-1]))
    groups = [_group(used, count=_GROUPS[len(usage) - 1]) for used in usage[1:, order]]
    # Element [r, …] holds the best of the first r labels with smaller groups of each other cost.
    table = np.full((count + 1, *(int(group.max(initial=0)) + 2 for group in groups)), -np.inf)
    rows = np.arange(count)
    table[(rows + 1, *(group + 1 for group in groups))] = at_least[order]
    for axis in range(table.ndim):
        np.maximum.accumulate(table, axis=axis, out=table)
    # All of the first group use the same, so they may be compared with each other.
    found = table[(rows, *(group + (group == 0) for group in groups))] >= at_most[order]
    dominated = np.zeros(count, dtype=bool)
    dominated[order] = found
    return dominated


def _group(used: Vector, *, count: int) -> NDArray[np.int64]:
    """Number labels by what they use of a cost: group 0 has the least, the others reach up to a quantile each."""
    if len(used) == 0:
        return np.zeros(0, dtype=np.int64)
    limits = np.unique([used.min(), *np.quantile(used, np.linspace(0, 1, count)[1:-1])])
    return np.searchsorted(limits, used, side="left")
