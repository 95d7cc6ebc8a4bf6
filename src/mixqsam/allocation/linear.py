"""Rewrite the quadratic program as an equivalent mixed-integer linear program.

A binary x_{i,s} says that unit i is in state s. For each pair of coupled neighbours and each operand (weight,
activation), y_{b,b'} ≥ 0 has the neighbours' choices of bits as its marginals. With integer x, y is integer, so
Σ (b − b')²·y equals the quadratic term.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mixqsam.allocation.cheapest import Choice
from mixqsam.allocation.program import Program
from mixqsam.plan import Vector


@dataclass(frozen=True)
class LinearProgram:
    """Maximise objective·v subject to low ≤ matrix·v ≤ high, v ≥ 0, the first `binaries` of v in {0, 1}.

    Attributes:
        objective: [variables].
        matrix: [rows, variables].
        low, high: [rows].
        binaries: number of variables x; the others are y.
        starts: index of each unit's first x.
    """

    objective: Vector
    matrix: sparse.csc_matrix
    low: Vector
    high: Vector
    binaries: int
    starts: NDArray[np.int64]

    def invert(self, values: Vector) -> Choice:
        """Turn a solution into the chosen state of each unit."""
        stops = np.append(self.starts[1:], self.binaries)
        chosen = [int(values[a:b].argmax()) for a, b in zip(self.starts, stops, strict=True)]
        return np.array(chosen, dtype=np.int64)


class _Builder:
    def __init__(self) -> None:
        self.objective: list[float] = []
        self.entries: list[tuple[int, int, float]] = []
        self.bounds: list[tuple[float, float]] = []

    def add_row(self, entries: Iterator[tuple[int, float]], low: float, high: float) -> None:
        number = len(self.bounds)
        self.entries.extend((number, column, value) for column, value in entries)
        self.bounds.append((low, high))


def linearise(program: Program, *, scale: float, cost_scale: float) -> LinearProgram:
    """Rewrite a program; `scale` and `cost_scale` fit the objective and the budgets to the solver's tolerances."""
    sizes = [len(s) for s in program.states]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    builder = _Builder()
    for utility in program.utility:
        builder.objective.extend((scale * utility).tolist())
    binaries = len(builder.objective)
    for start, size in zip(starts, sizes, strict=True):
        builder.add_row(((int(start) + s, 1.0) for s in range(size)), 1.0, 1.0)
    for k, capacity in enumerate(program.capacity):
        prices = np.concatenate([c[:, k] for c in program.costs]) * cost_scale
        builder.add_row(((j, float(price)) for j, price in enumerate(prices)), -np.inf, float(capacity) * cost_scale)
    for edge, coupling in enumerate(program.coupling):
        if coupling:
            _add_coupling(builder, program, edge, starts, weight=scale * float(coupling))
    rows, columns, values = (np.array(part) for part in zip(*builder.entries, strict=True))
    shape = (len(builder.bounds), len(builder.objective))
    low, high = (np.array(part, float) for part in zip(*builder.bounds, strict=True))
    matrix = sparse.csc_matrix((values, (rows, columns)), shape=shape)
    return LinearProgram(np.array(builder.objective), matrix, low, high, binaries, starts)


def _add_coupling(builder: _Builder, program: Program, edge: int, starts: NDArray[np.int64], *, weight: float) -> None:
    """Add y and its marginals for one pair of neighbours; tied states need only one operand."""
    left, right = program.states[edge], program.states[edge + 1]
    tied = all((s[:, 0] == s[:, 1]).all() for s in (left, right))
    for operand in (0,) if tied else (0, 1):
        left_bits, right_bits = np.unique(left[:, operand]), np.unique(right[:, operand])
        first = len(builder.objective)
        share = weight if tied else weight / 2
        gaps = (left_bits[:, None] - right_bits[None, :]).astype(float) ** 2
        builder.objective.extend((-share * gaps).ravel().tolist())
        pair_columns = first + np.arange(gaps.size).reshape(gaps.shape)
        for bits, columns in zip(left_bits, pair_columns, strict=True):
            state_columns = starts[edge] + np.flatnonzero(left[:, operand] == bits)
            _add_marginal(builder, columns, state_columns)
        for bits, columns in zip(right_bits, pair_columns.T, strict=True):
            state_columns = starts[edge + 1] + np.flatnonzero(right[:, operand] == bits)
            _add_marginal(builder, columns, state_columns)


def _add_marginal(builder: _Builder, pair_columns: NDArray[np.int64], state_columns: NDArray[np.int64]) -> None:
    entries = [(int(j), 1.0) for j in pair_columns] + [(int(j), -1.0) for j in state_columns]
    builder.add_row(iter(entries), 0.0, 0.0)
