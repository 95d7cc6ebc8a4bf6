"""A bound and a good start: budgets priced by Lagrange multipliers, the chain solved by dynamic programming.

For prices μ ≥ 0, g(μ) = max_s [objective(s) + μ·(room − used(s))] is never below the optimum, and is exact to
compute because the units form a chain. Kelley's cutting planes find the prices with the least bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from mixqsam.allocation.program import Choice, Program
from mixqsam.plan import Vector

_ROUNDS = 120
_PRECISION = 1e-9


@dataclass(frozen=True)
class Relaxed:
    """What the relaxation tells.

    Attributes:
        bound: no feasible choice is better.
        prices: the multipliers of that bound, [K].
        choice: the best feasible choice that came up.
    """

    bound: float
    prices: Vector
    choice: Choice


def relax(program: Program) -> Relaxed:
    """Bound a program whose cheapest choice is feasible."""
    cheapest = np.array([int(s.sum(axis=1).argmin()) for s in program.states])
    best = improve(program, cheapest)
    limit = 1e4 * max(1e-12, sum(float(np.ptp(u)) for u in program.utility))
    cuts = [(program.value(cheapest), program.room - program.used(cheapest))]
    prices = at = np.zeros(len(program.room))
    bound = np.inf
    for _ in range(_ROUNDS):
        forward, choice = _forward(program, prices)
        total = float(forward[-1].max() + prices @ program.room)
        slack = program.room - program.used(choice)
        if total < bound:
            bound, at = total, prices
        if (slack >= 0).all():
            best = max(best, improve(program, choice), key=program.value)
        cuts.append((program.value(choice), slack))
        floor, prices = _cheapest_prices(cuts, limit)
        if bound - max(floor, program.value(best)) <= _PRECISION * limit * 1e-4:
            break
    return Relaxed(float(bound), at, best)


def _cheapest_prices(cuts: Sequence[tuple[float, Vector]], limit: float) -> tuple[float, Vector]:
    """Min θ subject to θ ≥ value_k + μ·slack_k and 0 ≤ μ ≤ limit: a lower estimate of the least bound, and μ."""
    width = len(cuts[0][1])
    if width == 0:
        return max(value for value, _ in cuts), np.zeros(0)
    rows = np.array([[-1.0, *slack] for _, slack in cuts])
    values = np.array([-value for value, _ in cuts])
    solved = linprog([1.0, *[0.0] * width], A_ub=rows, b_ub=values, bounds=[(None, None), *[(0, limit)] * width])
    return float(solved.fun), np.asarray(solved.x[1:], float)


def survivors(program: Program, relaxed: Relaxed) -> list[NDArray[np.bool_]]:
    """States that a choice better than the best known one may still use.

    A state whose best chain, at the bound's prices, is not above the best known value cannot be in a better choice.
    """
    forward, _ = _forward(program, relaxed.prices)
    backward = _backward(program, relaxed.prices)
    offset = float(relaxed.prices @ program.room)
    own = _priced(program, relaxed.prices)
    best = program.value(relaxed.choice)
    margin = 1e-12 * max(1.0, abs(best)) + 1e-9 * sum(float(np.ptp(u)) for u in program.utility)
    keep = []
    for i, chosen in enumerate(relaxed.choice):
        alive = forward[i] + backward[i] - own[i] + offset > best - margin
        alive[chosen] = True
        keep.append(alive)
    return keep


def improve(program: Program, choice: Choice) -> Choice:
    """Change one unit at a time to the state that gains most within the budgets, until none gains."""
    choice = choice.copy()
    used = program.used(choice)
    while True:
        gain, unit, state = max(_best_moves(program, choice, used), default=(0.0, 0, 0))
        if gain <= 0:
            return choice
        choice[unit] = state
        used = program.used(choice)


def _best_moves(program: Program, choice: Choice, used: Vector) -> list[tuple[float, int, int]]:
    moves = []
    for i, now in enumerate(choice):
        value = program.utility[i].copy()
        for j, edge in ((i - 1, i - 1), (i + 1, i)):
            if 0 <= j < len(choice) and program.coupling[edge]:
                gaps = program.states[i] - program.states[j][choice[j]]
                value -= program.coupling[edge] * (gaps**2).mean(axis=1)
        fits = (used - program.costs[i][now] + program.costs[i] <= program.room).all(axis=1)
        value = np.where(fits, value, -np.inf)
        best = int(value.argmax())
        threshold = 1e-12 * max(1.0, abs(float(value[now])))
        if best != now and value[best] - value[now] > threshold:
            moves.append((float(value[best] - value[now]), i, best))
    return moves


def _priced(program: Program, prices: Vector) -> list[Vector]:
    return [u - c @ prices for u, c in zip(program.utility, program.costs, strict=True)]


def _edge(program: Program, index: int) -> Vector:
    """Cost of every pair of states of units index and index + 1."""
    gaps = program.states[index][:, None, :] - program.states[index + 1][None, :, :]
    cost: Vector = program.coupling[index] * (gaps**2).mean(axis=2)
    return cost


def _forward(program: Program, prices: Vector) -> tuple[list[Vector], Choice]:
    """Best value of chains that end in each state, and the best chain."""
    own = _priced(program, prices)
    totals, origins = [own[0]], []
    for i in range(1, len(own)):
        if program.coupling[i - 1]:
            through = totals[-1][:, None] - _edge(program, i - 1)
            origin = through.argmax(axis=0)
            arrived = through[origin, np.arange(len(own[i]))]
        else:
            origin = np.full(len(own[i]), totals[-1].argmax())
            arrived = np.full(len(own[i]), totals[-1].max())
        origins.append(origin)
        totals.append(arrived + own[i])
    choice = np.zeros(len(own), dtype=np.int64)
    choice[-1] = totals[-1].argmax()
    for i in range(len(own) - 2, -1, -1):
        choice[i] = origins[i][choice[i + 1]]
    return totals, choice


def _backward(program: Program, prices: Vector) -> list[Vector]:
    """Best value of chains that begin in each state."""
    own = _priced(program, prices)
    totals = [own[-1]]
    for i in range(len(own) - 2, -1, -1):
        reached = (totals[-1][None, :] - _edge(program, i)).max(axis=1)
        totals.append(reached + own[i])
    return totals[::-1]
