"""Find a choice of states that is within all budgets, or show that there is none."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import LinearConstraint, milp

from mixqsam.plan import Vector

Choice = NDArray[np.int64]

# The solver's tolerances are absolute; this scaling makes them negligible. Rounding may still exceed a budget slightly.
_SCALE = 1e4
_MARGINS = (0.0, 1e-9, 1e-7)
_SECONDS = 20.0


def find_cheapest(states: Sequence[NDArray[np.int64]], costs: Sequence[Vector], capacity: Vector) -> Choice:
    """Find a choice within all budgets, if there is one.

    A choice with little of the last cost comes first, because it is found at once. Where it exceeds a budget, a solver
    finds the choice with the least of the last cost within the other budgets.

    Args:
        states: bits of the states of each unit, [S, 2].
        costs: of the states of each unit, [S, K], in the order size, BitOps, latency.
        capacity: [K].

    Returns:
        A choice within all budgets. Where there is none: the least of the last cost within the other budgets, or a
        choice that exceeds one of these, too.
    """
    choice = _find_quickly(states, costs, capacity)
    if len(capacity) < 2 or _fits(costs, capacity, choice):
        return choice
    for margin in _MARGINS:
        exact = _minimise_last(costs, capacity - margin)
        if exact is not None and _fits([c[:, :-1] for c in costs], capacity[:-1], exact):
            return exact
    return choice


def _fits(costs: Sequence[Vector], capacity: Vector, choice: Choice) -> bool:
    usage = np.sum([c[i] for c, i in zip(costs, choice, strict=True)], axis=0)
    return bool((usage <= capacity).all())


def _find_quickly(states: Sequence[NDArray[np.int64]], costs: Sequence[Vector], capacity: Vector) -> Choice:
    """Take the least of the last cost, and then move units until the first cost is within its budget.

    Those move first that add least of the last cost for what they save of the first one.
    """
    # lexsort sorts by its last key first.
    keys = [[s.sum(axis=1), *c.T] for s, c in zip(states, costs, strict=True)]
    choice = np.array([int(np.lexsort(key)[0]) for key in keys], dtype=np.int64)
    while len(capacity) > 1 and sum(float(c[i, 0]) for c, i in zip(costs, choice, strict=True)) > capacity[0]:
        moves = []
        for unit, (c, current) in enumerate(zip(costs, choice, strict=True)):
            added = c - c[current]
            moves += [(-added[s, -1] / added[s, 0], unit, int(s)) for s in np.flatnonzero(added[:, 0] < 0)]
        if not moves:
            break
        _, unit, state = min(moves)
        choice[unit] = state
    return choice


def _minimise_last(costs: Sequence[Vector], capacity: Vector) -> Choice | None:
    """Minimise the last cost within the budgets of the others; None where nothing is within these."""
    kept = [_find_undominated(c) for c in costs]
    columns = np.concatenate([c[k] for c, k in zip(costs, kept, strict=True)])
    counts = [len(k) for k in kept]
    owners = np.repeat(np.arange(len(counts)), counts)
    one_each = sparse.csr_array((np.ones(len(owners)), (owners, np.arange(len(owners)))))
    found = milp(
        columns[:, -1] * _SCALE,
        integrality=np.ones(len(owners)),
        bounds=(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(columns[:, :-1].T * _SCALE, -np.inf, capacity[:-1] * _SCALE),
        ],
        options={"time_limit": _SECONDS, "mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    parts = np.split(found.x, np.cumsum(counts)[:-1])
    return np.array([int(k[part.argmax()]) for k, part in zip(kept, parts, strict=True)], dtype=np.int64)


def _find_undominated(costs: Vector) -> NDArray[np.int64]:
    """Find the states of which no other one costs at most as much of everything."""
    order = np.lexsort(costs.T)
    kept: list[int] = []
    for state in order:
        if not any((costs[other] <= costs[state]).all() for other in kept):
            kept.append(int(state))
    return np.array(kept, dtype=np.int64)
