"""The quadratic program as a mixed-integer linear one, exactly.

A binary x_{i,s} says that unit i is in state s. For each pair of coupled neighbours and each operand (weight,
activation), y_{b,b'} ≥ 0 has the neighbours' choices of bits as its marginals; with x whole, y is whole, so
Σ (b − b')²·y is the quadratic term itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mixqsam.allocation.program import Choice, Program
from mixqsam.plan import Vector


@dataclass(frozen=True)
class Linear:
    """maximise objective·v subject to low ≤ matrix·v ≤ high, v ≥ 0, the first `binaries` of v in {0, 1}.

    Attributes:
        objective: [variables].
        matrix: [rows, variables].
        low, high: [rows].
        binaries: how many variables are x; the others are y.
        starts: index of each unit's first x.
    """

    objective: Vector
    matrix: sparse.csc_matrix
    low: Vector
    high: Vector
    binaries: int
    starts: NDArray[np.int64]

    def invert(self, values: Vector) -> Choice:
        """A solution → the chosen state of each unit."""
        stops = np.append(self.starts[1:], self.binaries)
        chosen = [int(values[a:b].argmax()) for a, b in zip(self.starts, stops, strict=True)]
        return np.array(chosen, dtype=np.int64)


class _Builder:
    def __init__(self) -> None:
        self.objective: list[float] = []
        self.entries: list[tuple[int, int, float]] = []
        self.bounds: list[tuple[float, float]] = []

    def row(self, entries: Iterator[tuple[int, float]], low: float, high: float) -> None:
        number = len(self.bounds)
        self.entries.extend((number, column, value) for column, value in entries)
        self.bounds.append((low, high))


def linearise(program: Program, *, scale: float, cost_scale: float) -> Linear:
    """Rewrite a program; objective and budgets are multiplied by `scale` and `cost_scale` to suit tolerances."""
    sizes = [len(s) for s in program.states]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    builder = _Builder()
    for utility in program.utility:
        builder.objective.extend((scale * utility).tolist())
    binaries = len(builder.objective)
    for start, size in zip(starts, sizes, strict=True):
        builder.row(((int(start) + s, 1.0) for s in range(size)), 1.0, 1.0)
    for k, room in enumerate(program.room):
        prices = np.concatenate([c[:, k] for c in program.costs]) * cost_scale
        builder.row(((j, float(price)) for j, price in enumerate(prices)), -np.inf, float(room) * cost_scale)
    for edge, coupling in enumerate(program.coupling):
        if coupling:
            _couple(builder, program, edge, starts, weight=scale * float(coupling))
    rows, columns, values = (np.array(part) for part in zip(*builder.entries, strict=True))
    shape = (len(builder.bounds), len(builder.objective))
    low, high = (np.array(part, float) for part in zip(*builder.bounds, strict=True))
    matrix = sparse.csc_matrix((values, (rows, columns)), shape=shape)
    return Linear(np.array(builder.objective), matrix, low, high, binaries, starts)


def _couple(builder: _Builder, program: Program, edge: int, starts: NDArray[np.int64], *, weight: float) -> None:
    """Add y and its marginals for one pair of neighbours; tied states need one operand for both."""
    left, right = program.states[edge], program.states[edge + 1]
    tied = all((s[:, 0] == s[:, 1]).all() for s in (left, right))
    for operand in (0,) if tied else (0, 1):
        left_bits, right_bits = np.unique(left[:, operand]), np.unique(right[:, operand])
        first = len(builder.objective)
        share = weight if tied else weight / 2
        gaps = (left_bits[:, None] - right_bits[None, :]).astype(float) ** 2
        builder.objective.extend((-share * gaps).ravel().tolist())
        places = first + np.arange(gaps.size).reshape(gaps.shape)
        for bits, columns in zip(left_bits, places, strict=True):
            own = starts[edge] + np.flatnonzero(left[:, operand] == bits)
            _marginal(builder, columns, own)
        for bits, columns in zip(right_bits, places.T, strict=True):
            own = starts[edge + 1] + np.flatnonzero(right[:, operand] == bits)
            _marginal(builder, columns, own)


def _marginal(builder: _Builder, pairs: NDArray[np.int64], own: NDArray[np.int64]) -> None:
    entries = [(int(j), 1.0) for j in pairs] + [(int(j), -1.0) for j in own]
    builder.row(iter(entries), 0.0, 0.0)
