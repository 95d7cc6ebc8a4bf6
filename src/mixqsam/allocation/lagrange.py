"""Bound the program with Lagrange multipliers, and find a good first choice.

For prices μ ≥ 0, g(μ) = max_s [objective(s) + μ·(capacity − usage(s))] is never below the optimum. The units form a
chain, so dynamic programming computes g exactly. Kelley's cutting planes find the prices with the lowest bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from mixqsam.allocation.cheapest import Choice
from mixqsam.allocation.program import Program
from mixqsam.plan import Vector

_MAX_ROUNDS = 120
_PRECISION = 1e-9


@dataclass(frozen=True)
class Relaxation:
    """The result of the relaxation.

    Attributes:
        bound: an upper bound of the objective over all feasible choices.
        prices: the multipliers of that bound, [K].
        choice: the best feasible choice that was found.
    """

    bound: float
    prices: Vector
    choice: Choice


@dataclass(frozen=True)
class Rest:
    """The best chain after each state at some prices: per unit.

    Attributes:
        prices: [K].
        priced: its value without the price of what it uses, [S].
        value: its value, [S].
        usage: what it uses, [K, S].
        follower: the next unit's state in it, [S]; the last unit has none.
    """

    prices: Vector
    priced: tuple[Vector, ...]
    value: tuple[Vector, ...]
    usage: tuple[Vector, ...]
    follower: tuple[NDArray[np.int64], ...]


def relax(program: Program) -> Relaxation:
    """Bound a program whose cheapest choice is feasible."""
    cheapest = program.cheapest
    best = cheapest
    limit = 1e4 * max(1e-12, sum(float(np.ptp(u)) for u in program.utility))
    cuts = [(program.value(cheapest), program.capacity - program.usage(cheapest))]
    prices = best_prices = np.zeros(len(program.capacity))
    bound = np.inf
    for _ in range(_MAX_ROUNDS):
        forward, choice = _solve_forward(program, prices)
        total = float(forward[-1].max() + prices @ program.capacity)
        slack = program.capacity - program.usage(choice)
        if total < bound:
            bound, best_prices = total, prices
        if (slack >= 0).all():
            best = max(best, choice, key=program.value)
        cuts.append((program.value(choice), slack))
        lower, prices = _minimize_bound(cuts, limit)
        if bound - max(lower, program.value(best)) <= _PRECISION * limit * 1e-4:
            break
    return Relaxation(float(bound), best_prices, best)


def _minimize_bound(cuts: Sequence[tuple[float, Vector]], limit: float) -> tuple[float, Vector]:
    """Minimize θ subject to θ ≥ value_k + μ·slack_k and 0 ≤ μ ≤ limit: a lower estimate of the lowest bound, and μ."""
    width = len(cuts[0][1])
    if width == 0:
        return max(value for value, _ in cuts), np.zeros(0)
    rows = np.array([[-1.0, *slack] for _, slack in cuts])
    values = np.array([-value for value, _ in cuts])
    solved = linprog([1.0, *[0.0] * width], A_ub=rows, b_ub=values, bounds=[(None, None), *[(0, limit)] * width])
    return float(solved.fun), np.asarray(solved.x[1:], float)


def survivors(program: Program, relaxation: Relaxation) -> list[NDArray[np.bool_]]:
    """States that a better choice than the best known one may still use.

    Each state has a best chain at the bound's prices. If that is not above the best known value, no better choice uses
    the state.
    """
    forward, _ = _solve_forward(program, relaxation.prices)
    rest = find_rest(program, relaxation.prices)
    offset = float(relaxation.prices @ program.capacity)
    best = program.value(relaxation.choice)
    margin = 1e-12 * max(1.0, abs(best)) + 1e-9 * sum(float(np.ptp(u)) for u in program.utility)
    survives = []
    for i, chosen in enumerate(relaxation.choice):
        alive = forward[i] + rest.priced[i] + offset > best - margin
        alive[chosen] = True
        survives.append(alive)
    return survives


def _priced_utility(program: Program, prices: Vector) -> list[Vector]:
    return [u - c @ prices for u, c in zip(program.utility, program.costs, strict=True)]


def _solve_forward(program: Program, prices: Vector) -> tuple[list[Vector], Choice]:
    """Best value of chains that end in each state, and the best chain."""
    utility = _priced_utility(program, prices)
    totals, origins = [utility[0]], []
    for i in range(1, len(utility)):
        if program.coupling[i - 1]:
            through = totals[-1][:, None] - program.pair_costs[i - 1]
            origin = through.argmax(axis=0)
            arrived = through[origin, np.arange(len(utility[i]))]
        else:
            origin = np.full(len(utility[i]), totals[-1].argmax())
            arrived = np.full(len(utility[i]), totals[-1].max())
        origins.append(origin)
        totals.append(arrived + utility[i])
    choice = np.zeros(len(utility), dtype=np.int64)
    choice[-1] = totals[-1].argmax()
    for i in range(len(utility) - 2, -1, -1):
        choice[i] = origins[i][choice[i + 1]]
    return totals, choice


def find_rest(program: Program, prices: Vector) -> Rest:
    """Find the best chain after each state, at prices [K]."""
    utility = _priced_utility(program, prices)
    size = len(utility[-1])
    parts = [(np.zeros(size), np.zeros(size), np.zeros((len(prices), size)), np.zeros(size, dtype=np.int64))]
    for unit in range(len(utility) - 2, -1, -1):
        priced, value, usage, _ = parts[-1]
        pairs = program.pair_costs[unit]
        totals = (priced + utility[unit + 1])[None, :] - pairs
        follower = totals.argmax(axis=1)
        rows = np.arange(len(follower))
        worth = (value + program.utility[unit + 1])[follower] - pairs[rows, follower]
        parts.append((totals[rows, follower], worth, (usage + program.costs[unit + 1].T)[:, follower], follower))
    return Rest(prices, *zip(*reversed(parts), strict=True))
