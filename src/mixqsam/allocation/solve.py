"""Solve the program to proven optimality: by a search along the chain, and by HiGHS where that would be too wide."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import highspy
import numpy as np
from numpy.typing import NDArray

from mixqsam.allocation.cheapest import Choice
from mixqsam.allocation.labels import search
from mixqsam.allocation.lagrange import Relaxation, relax, survivors
from mixqsam.allocation.linear import LinearProgram, linearise
from mixqsam.allocation.program import Program
from mixqsam.errors import MixqsamError
from mixqsam.plan import Vector

# HiGHS uses absolute tolerances of 1e-6; this scaling makes them negligible for objective and budgets.
_OBJECTIVE_SCALE = 1e4
_COST_SCALE = 1e4
# Rounding the solver's solution may exceed a budget slightly; then the next margin tightens the budget.
_MARGINS = (0.0, 1e-8, 1e-6)
# Labels of the searches, one after another. Without a coupling, HiGHS is quicker than wider searches.
_WIDTHS = (50, 200, 1000, 5000, 20000)
_WIDTHS_UNCOUPLED = (50,)
# Gaps below this share of the utility's whole span are rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Solution:
    """The best known choice and a bound of its objective.

    Attributes:
        choice: the state of each unit.
        objective: its value.
        bound: an upper bound of the objective over all feasible choices.
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
    def is_optimal(self) -> bool:
        """Whether optimality is proven."""
        return self.bound <= self.objective


def solve(program: Program, *, time_limit: float = 50.0) -> Solution:
    """Find the best choice within the budgets and the time, with a bound.

    Args:
        program: feasible, as `build_program` checks.
        time_limit: maximum time in seconds.

    Raises:
        MixqsamError: the solver failed.
    """
    started = time.monotonic()
    span = max(sum(float(np.ptp(u)) for u in program.utility), 1e-300)
    known = _search(program, relax(program), tolerance=_ROUNDING * span, deadline=started + time_limit)
    best, bound = known.choice, known.bound
    if bound - program.value(best) > _ROUNDING * span:
        remaining = max(1.0, time_limit - (time.monotonic() - started))
        best, bound = _branch_and_cut(
            program, best, survivors(program, known), bound=bound, span=span, time_limit=remaining
        )
    value = program.value(best)
    if bound - value <= _ROUNDING * span:
        bound = value
    return Solution(best, value, bound, time.monotonic() - started)


def _search(program: Program, known: Relaxation, *, tolerance: float, deadline: float) -> Relaxation:
    """Search with more and more labels, until the choice is proven, or more labels do not seem to help.

    Returns:
        The relaxation with the better choice and the better bound.
    """
    widths = _WIDTHS if program.coupling.any() else _WIDTHS_UNCOUPLED
    for width in widths:
        if known.bound - program.value(known.choice) <= tolerance or time.monotonic() > deadline:
            break
        keep = survivors(program, known)
        reduced = replace(known, choice=_enter(keep, known.choice))
        found = search(program.restrict(keep), reduced, width=width, tolerance=tolerance)
        known = replace(known, choice=_leave(keep, found.choice), bound=found.bound)
        # Not even the widest search would keep all labels.
        if found.crowd > max(widths):
            break
    return known


def _enter(keep: Sequence[NDArray[np.bool_]], choice: Choice) -> Choice:
    """A choice in terms of the states that `keep` marks."""
    return np.array([int(alive[:state].sum()) for alive, state in zip(keep, choice, strict=True)], dtype=np.int64)


def _leave(keep: Sequence[NDArray[np.bool_]], choice: Choice) -> Choice:
    """A choice of marked states in terms of all states."""
    return np.array([int(np.flatnonzero(alive)[s]) for alive, s in zip(keep, choice, strict=True)], dtype=np.int64)


def _branch_and_cut(
    program: Program,
    start: Choice,
    keep: list[NDArray[np.bool_]],
    *,
    bound: float,
    span: float,
    time_limit: float,
) -> tuple[Choice, float]:
    """Branch and cut on the surviving states; returns the better choice and the better bound."""
    reduced = program.restrict(keep)
    reduced_start = _enter(keep, start)
    scale = _OBJECTIVE_SCALE / span
    best, solver_bound, deadline = reduced_start, np.inf, time.monotonic() + time_limit
    for margin in _MARGINS:
        tightened = replace(reduced, capacity=reduced.capacity - margin)
        linear = linearise(tightened, scale=scale, cost_scale=_COST_SCALE)
        values, margin_bound = _solve_linear(linear, reduced_start, time_limit=max(1.0, deadline - time.monotonic()))
        # A tightened budget gives no bound for the original program.
        solver_bound = margin_bound if margin == 0 else solver_bound
        candidate = linear.invert(values)
        if reduced.is_feasible(candidate):
            best = max(candidate, reduced_start, key=reduced.value)
            break
    # The reduced program lacks states that no choice better than the start uses.
    reachable = max(solver_bound / scale, reduced.value(best))
    return _leave(keep, best), min(bound, reachable)


def _solve_linear(linear: LinearProgram, start: Choice, *, time_limit: float) -> tuple[Vector, float]:
    values, claimed, bound = _run_highs(linear, start, time_limit=time_limit)
    # HiGHS 1.16 can return the start itself with the objective of the optimum, where presolve leaves nothing to solve.
    if abs(float(linear.objective @ values) - claimed) > _OBJECTIVE_SCALE * _ROUNDING:
        values, _, bound = _run_highs(linear, None, time_limit=time_limit)
    return values, bound


def _run_highs(linear: LinearProgram, start: Choice | None, *, time_limit: float) -> tuple[Vector, float, float]:
    """Run HiGHS once; returns the values of all variables, the objective that it claims for them, and the bound."""
    with _silence_banner():
        solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    for option in ("mip_feasibility_tolerance", "primal_feasibility_tolerance", "dual_feasibility_tolerance"):
        solver.setOptionValue(option, 1e-9)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", _OBJECTIVE_SCALE * _ROUNDING)
    solver.setOptionValue("time_limit", time_limit)
    solver.passModel(_to_highs(linear))
    if start is not None:
        solver.setSolution(len(linear.starts), (linear.starts + start).astype(np.int32), np.ones(len(start)))
    _solve_interruptibly(solver)
    info = solver.getInfo()
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        status = solver.modelStatusToString(solver.getModelStatus())
        raise MixqsamError(
            f"The solver HiGHS failed with status {status!r}; please report this with the analysis file."
        )
    return np.array(solver.getSolution().col_value), float(info.objective_function_value), float(info.mip_dual_bound)


@contextlib.contextmanager
def _silence_banner() -> Iterator[None]:
    """Hide the banner that HiGHS prints to standard output when first created, before options take effect."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _solve_interruptibly(solver: highspy.Highs) -> None:
    """Solve in a thread, so that Ctrl-C and SIGTERM stop the command at once.

    HiGHS handles Ctrl-C by ending the search; the command would then go on with an unfinished solution. The thread is
    not HiGHS's own: a signal while that one starts would leave it running, and the process would abort at its end.
    """
    solver.HandleUserInterrupt = True
    thread = threading.Thread(target=_run, args=(solver,))
    try:
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
    except BaseException:
        solver.cancelSolve()
        if thread.is_alive():
            thread.join()
        raise


def _run(solver: highspy.Highs) -> None:
    try:
        solver.solve()
    finally:
        # A thread on Windows may otherwise not end, as highspy's own thread notes.
        highspy.Highs.resetThreadScheduler(False)


def _to_highs(linear: LinearProgram) -> highspy.HighsLp:
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
