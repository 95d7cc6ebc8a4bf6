"""Solve the program to proven optimality with HiGHS, from the relaxation's start, on the states it left alive."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import highspy
import numpy as np
from numpy.typing import NDArray

from mixqsam.allocation.lagrange import improve, relax, survivors
from mixqsam.allocation.linear import Linear, linearise
from mixqsam.allocation.program import Choice, Program
from mixqsam.errors import MixqsamError
from mixqsam.plan import Vector

# HiGHS works to absolute tolerances of 1e-6; objective and budgets are scaled so that these mean nothing.
_OBJECTIVE_SCALE = 1e4
_COST_SCALE = 1e4
# What is whole to the solver's tolerance may, once rounded, be over a budget by a hair: then a hair less is asked for.
_MARGINS = (0.0, 1e-8, 1e-6)
# Gaps below this share of the utility's whole span are rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Solution:
    """An allocation and how good it is known to be.

    Attributes:
        choice: the state of each unit.
        objective: its value.
        bound: no feasible choice has more.
        seconds: wall time.
    """

    choice: Choice
    objective: float
    bound: float
    seconds: float

    @property
    def gap(self) -> float:
        """(bound − objective) / |objective|; 0 is proven optimal."""
        return max(0.0, self.bound - self.objective) / max(abs(self.objective), 1e-12)

    @property
    def optimal(self) -> bool:
        """Whether optimality is proven."""
        return self.bound <= self.objective


def solve(program: Program, *, time_limit: float = 50.0) -> Solution:
    """Find the best choice within the budgets, or the best that the time allows, with a bound.

    Args:
        program: feasible, as `build_program` checks.
        time_limit: seconds for everything.

    Raises:
        MixqsamError: the solver failed.
    """
    started = time.monotonic()
    relaxed = relax(program)
    span = max(sum(float(np.ptp(u)) for u in program.utility), 1e-300)
    best, bound = relaxed.choice, relaxed.bound
    if bound - program.value(best) > _ROUNDING * span:
        left = max(1.0, time_limit - (time.monotonic() - started))
        best, bound = _branch(program, best, survivors(program, relaxed), bound=bound, span=span, time_limit=left)
    value = program.value(best)
    if bound - value <= _ROUNDING * span:
        bound = value
    return Solution(best, value, bound, time.monotonic() - started)


def _branch(
    program: Program,
    start: Choice,
    keep: list[NDArray[np.bool_]],
    *,
    bound: float,
    span: float,
    time_limit: float,
) -> tuple[Choice, float]:
    """Branch and cut on the surviving states: the better of `start` and what is found, and the better bound."""
    reduced = program.restrict(keep)
    index = [np.flatnonzero(alive) for alive in keep]
    warm = np.array([int(np.searchsorted(i, s)) for i, s in zip(index, start, strict=True)])
    scale = _OBJECTIVE_SCALE / span
    best, solver_bound, stop = warm, np.inf, time.monotonic() + time_limit
    for margin in _MARGINS:
        tightened = replace(reduced, room=reduced.room - margin)
        linear = linearise(tightened, scale=scale, cost_scale=_COST_SCALE)
        values, one_bound = _run(linear, warm, time_limit=max(1.0, stop - time.monotonic()))
        # Only the program with the whole budget bounds the one that was asked for.
        solver_bound = one_bound if margin == 0 else solver_bound
        found = linear.invert(values)
        if reduced.feasible(found):
            best = max(improve(reduced, found), warm, key=reduced.value)
            break
    # States were left out because nothing above the start's value uses them.
    reachable = max(solver_bound / scale, reduced.value(best))
    chosen = np.array([int(i[s]) for i, s in zip(index, best, strict=True)])
    return chosen, min(bound, reachable)


def _run(linear: Linear, warm: Choice, *, time_limit: float) -> tuple[Vector, float]:
    with _no_banner():
        solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    for option in ("mip_feasibility_tolerance", "primal_feasibility_tolerance", "dual_feasibility_tolerance"):
        solver.setOptionValue(option, 1e-9)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", _OBJECTIVE_SCALE * _ROUNDING)
    solver.setOptionValue("time_limit", time_limit)
    solver.passModel(_model(linear))
    solver.setSolution(len(linear.starts), (linear.starts + warm).astype(np.int32), np.ones(len(warm)))
    _finish(solver)
    info = solver.getInfo()
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        status = solver.modelStatusToString(solver.getModelStatus())
        raise MixqsamError(
            f"The solver HiGHS failed with status {status!r}; please report this with the analysis file."
        )
    return np.array(solver.getSolution().col_value), float(info.mip_dual_bound)


@contextlib.contextmanager
def _no_banner() -> Iterator[None]:
    """HiGHS greets on the process's standard output when first made, before any option can silence it."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _finish(solver: highspy.Highs) -> None:
    """Solve in a thread, so that Ctrl-C and SIGTERM stop it at once.

    Its own way of handling them would end the search, and let the command go on with whatever had been found.
    """
    solver.HandleKeyboardInterrupt = True
    thread = solver.startSolve()
    try:
        while thread.is_alive():
            thread.join(0.1)
    except BaseException:
        solver.cancelSolve()
        thread.join()
        raise


def _model(linear: Linear) -> highspy.HighsLp:
    model = highspy.HighsLp()
    count = len(linear.objective)
    model.num_col_, model.num_row_ = count, len(linear.low)
    model.sense_ = highspy.ObjSense.kMaximize
    model.col_cost_ = linear.objective
    model.col_lower_, model.col_upper_ = np.zeros(count), np.ones(count)
    model.row_lower_, model.row_upper_ = linear.low, linear.high
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = linear.matrix.indptr
    model.a_matrix_.index_ = linear.matrix.indices
    model.a_matrix_.value_ = linear.matrix.data
    kinds = [highspy.HighsVarType.kInteger] * linear.binaries
    model.integrality_ = kinds + [highspy.HighsVarType.kContinuous] * (count - linear.binaries)
    return model
