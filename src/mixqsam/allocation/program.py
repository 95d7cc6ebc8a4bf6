"""The integer quadratic program over a chain of units, and its objective.

See docs/method.md, “Bit allocation”.

Maximise Σ_i U_i(s_i) − Σ_i c_i·d(s_i, s_{i+1})
subject to Σ size_i(s_i) ≤ S,  Σ bitops_i(s_i) ≤ O,  Σ latency_i(s_i) ≤ T

A state s of a unit is a pair of bit-widths (weight, activation), and d is the mean of their squared differences,
which is (b_l − b_m)² when both are equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mixqsam.allocation.budget import Limits
from mixqsam.allocation.cheapest import Choice, find_cheapest
from mixqsam.allocation.feasible import check_feasible, count_costs
from mixqsam.errors import BudgetError
from mixqsam.measurements import Analysis
from mixqsam.plan import CANDIDATE_BITS, HALF_BITS, BitPlan, Costs, UnitBits, Vector

Utility = Literal["linear", "exponential", "measured", "fisher"]
UTILITIES: tuple[Utility, ...] = ("linear", "exponential", "measured", "fisher")


@dataclass(frozen=True)
class Objective:
    """How bits are valued.

    Attributes:
        output: P_Y definition, `bernoulli` or `spatial`.
        utility: u(b): `linear` is b, `exponential` is −4^(−b), both weighted by Ω; `measured` is minus the KL
            divergence with that unit alone at b bits, without a weight; `fisher` is minus its estimate from gradients.
        synergy: estimator, `proximity` or `interaction`.
        coupling: λ; 1 makes the synergy term as strong as the utility term.
    """

    output: str
    utility: Utility
    synergy: str
    coupling: float


@dataclass(frozen=True)
class Program:
    """One program, scaled for solvers.

    Attributes:
        names: of the units.
        states: per unit [S, 2], bits of weight and activation.
        utility: per unit [S].
        costs: per unit [S, K], each column in shares of one budget (K is 0 to 3).
        capacity: [K], the share of each budget that the units may use; 1 where nothing else uses it.
        coupling: [units − 1], c ≥ 0.
    """

    names: tuple[str, ...]
    states: tuple[NDArray[np.int64], ...]
    utility: tuple[Vector, ...]
    costs: tuple[Vector, ...]
    capacity: Vector
    coupling: Vector

    def value(self, choice: Choice) -> float:
        """The objective of a choice of states."""
        chosen = np.array([s[c] for s, c in zip(self.states, choice, strict=True)], dtype=np.float64)
        utility = sum(float(u[c]) for u, c in zip(self.utility, choice, strict=True))
        distances = ((chosen[1:] - chosen[:-1]) ** 2).mean(axis=1)
        return utility - float(self.coupling @ distances)

    @property
    def cheapest(self) -> Choice:
        """A choice within all budgets, wherever `check_feasible` found one."""
        return find_cheapest(self.states, self.costs, self.capacity)

    def usage(self, choice: Choice) -> Vector:
        """The share of each budget that a choice uses: [K]."""
        usage: Vector = np.sum([c[i] for c, i in zip(self.costs, choice, strict=True)], axis=0)
        return usage

    def is_feasible(self, choice: Choice) -> bool:
        """Whether a choice is within all budgets."""
        return bool((self.usage(choice) <= self.capacity).all())

    @cached_property
    def pair_costs(self) -> tuple[Vector, ...]:
        """What each pair of states of units i and i + 1 costs: per pair of neighbours [S, S']."""
        return tuple(
            coupling * ((left[:, None, :] - right[None, :, :]) ** 2).mean(axis=2)
            if coupling
            else np.broadcast_to(0.0, (len(left), len(right)))
            for coupling, left, right in zip(self.coupling, self.states[:-1], self.states[1:], strict=True)
        )

    def plan(self, choice: Choice) -> BitPlan:
        """The bits of a choice."""
        rows = zip(self.names, self.states, choice, strict=True)
        return BitPlan({name: UnitBits(int(s[c, 0]), int(s[c, 1])) for name, s, c in rows})

    def restrict(self, keep: Sequence[NDArray[np.bool_]]) -> "Program":
        """The program with only the states that `keep` marks."""
        return replace(
            self,
            states=tuple(s[k] for s, k in zip(self.states, keep, strict=True)),
            utility=tuple(u[k] for u, k in zip(self.utility, keep, strict=True)),
            costs=tuple(c[k] for c, k in zip(self.costs, keep, strict=True)),
        )


def build_program(
    analysis: Analysis,
    budget: Limits,
    objective: Objective,
    *,
    candidates: Sequence[int],
    tied: bool,
    fixed: Mapping[str, UnitBits],
) -> Program:
    """Build the program of a model and a budget.

    Args:
        analysis: importance, synergy and sensitivity of the units.
        budget: limits of size, BitOps and latency.
        objective: how bits are valued.
        candidates: bit-widths to choose from.
        tied: the weight and the activation of a unit share one bit-width.
        fixed: unit name → bits, for units whose bits are not chosen.

    Raises:
        BudgetError: the analysis lacks a measurement that the objective needs, or the budget is too small.
    """
    states = unit_states(analysis.costs, candidates=candidates, tied=tied, fixed=fixed)
    check_feasible(analysis.costs, budget, states)
    utility = _utility(analysis, objective, states, candidates)
    costs, capacity = count_costs(analysis.costs, budget, states)
    return Program(
        names=tuple(u.name for u in analysis.units),
        states=states,
        utility=utility,
        costs=costs,
        capacity=capacity,
        coupling=_coupling(analysis, objective, states, utility, candidates),
    )


def unit_states(
    costs: Costs, *, candidates: Sequence[int], tied: bool, fixed: Mapping[str, UnitBits]
) -> tuple[NDArray[np.int64], ...]:
    """The states that each unit may have: [S, 2], bits of weight and activation."""
    free = [(b, b) for b in candidates] if tied else list(product(candidates, candidates))
    return tuple(
        np.array([(f.weight, f.activation)] if (f := fixed.get(u.name)) else free, dtype=np.int64) for u in costs.units
    )


def predict_divergence(analysis: Analysis, plan: BitPlan, objective: Objective) -> float | None:
    """Predict the KL divergence of a model from the float model: the sum of what each unit's bits cause alone.

    Args:
        analysis: measurements of the units.
        plan: bits of the units.
        objective: names the measurement and the output distribution.

    Returns:
        The divergence; None where the utility does not rest on a measured divergence.
    """
    if objective.utility not in {"measured", "fisher"}:
        return None
    states = unit_states(analysis.costs, candidates=CANDIDATE_BITS, tied=False, fixed=plan.bits)
    return -float(sum(values[0] for values in _utility(analysis, objective, states, CANDIDATE_BITS)))


def _utility(
    analysis: Analysis, objective: Objective, states: Sequence[NDArray[np.int64]], candidates: Sequence[int]
) -> tuple[Vector, ...]:
    values = _select_measured(analysis, objective)
    if objective.utility == "linear":
        return tuple(w * _as_float(s).mean(axis=1) for w, s in zip(values, states, strict=True))
    if objective.utility == "exponential":
        return tuple(-w * (4.0 ** -_as_float(s)).mean(axis=1) for w, s in zip(values, states, strict=True))
    bits = sorted(set(candidates) | {int(b) for s in states for b in s.ravel()})
    measured_at = CANDIDATE_BITS if objective.utility == "fisher" else analysis.sensitivity_bits
    divergence = interpolate(values, measured_at, bits)
    column = {b: i for i, b in enumerate(bits)}
    return tuple(
        -np.array([divergence[i, 0, column[w]] + divergence[i, 1, column[a]] for w, a in s])
        for i, s in enumerate(states)
    )


def _select_measured(analysis: Analysis, objective: Objective) -> Vector:
    """Select what a utility needs, under the objective's output distribution.

    Raises:
        BudgetError: it was not measured; the message says how to measure it, and which utilities need no more.
    """
    measurements: dict[Utility, tuple[Mapping[str, Vector], str, str]] = {
        "linear": (analysis.importance, "importance", "--importance"),
        "exponential": (analysis.importance, "importance", "--importance"),
        "measured": (analysis.sensitivity, "measured sensitivity", "--sensitivity-bits 2,4,8"),
        "fisher": (analysis.fisher, "Fisher sensitivity", f"--fisher {objective.output}"),
    }
    values, what, option = measurements[objective.utility]
    if objective.output in values:
        return values[objective.output]
    held = [name for name, (others, _, _) in measurements.items() if objective.output in others]
    choice = f", or choose --utility {' or '.join(held)}" if held else ""
    raise BudgetError(
        f"The analysis holds no {what} for P_Y {objective.output!r}; run `mixqsam analyze {option}`{choice}."
    )


def _as_float(states: NDArray[np.int64]) -> Vector:
    return states.astype(np.float64)


def interpolate(divergence: Vector, measured_at: Sequence[int], bits: Sequence[int]) -> Vector:
    """Interpolate the measured KL at any bit-widths: [units, 2, bits], operands as in `Unit.operands`.

    Quantization noise falls as 4^(−b), so log KL is nearly linear in b and is interpolated linearly. Beyond the
    measured bits it falls by a factor of 4 per bit. At 16 bits and in float it counts as 0: such activations are not
    quantized, and half precision moves a weight far less than 8 bits do.
    """
    measured_bits, requested_bits = np.array(measured_at, float), np.array(bits, float)
    # More bits increase KL only by measurement noise; without this the solver would take noise for a gain.
    decreasing = np.minimum.accumulate(divergence, axis=-1)
    logs = np.log(np.maximum(decreasing, 1e-30))
    inside = np.apply_along_axis(lambda row: np.interp(requested_bits, measured_bits, row), -1, logs)
    beyond = (requested_bits - np.clip(requested_bits, measured_bits[0], measured_bits[-1])) * np.log(4)
    result: Vector = np.where(requested_bits >= HALF_BITS, 0.0, np.exp(inside - beyond))
    return result


def _coupling(
    analysis: Analysis,
    objective: Objective,
    states: Sequence[NDArray[np.int64]],
    utility: Sequence[Vector],
    candidates: Sequence[int],
) -> Vector:
    """λ·Ŝ/mean(Ŝ), times the mean utility of one bit: λ = 1 is as strong as the utility at any scale."""
    count = len(states)
    if objective.coupling == 0 or len(candidates) < 2:
        return np.zeros(count - 1)
    name = f"{objective.synergy}/{objective.output}"
    if name not in analysis.synergy:
        held = f"it holds {', '.join(analysis.synergy)}" if analysis.synergy else "run `mixqsam analyze --importance`"
        raise BudgetError(f"The analysis does not hold the synergy {name!r}, which --synergy-weight needs; {held}.")
    strength = analysis.synergy[name]
    slope = float(np.mean([u.max() - u.min() for u in utility])) / (max(candidates) - min(candidates))
    coupling = objective.coupling * slope * strength / max(float(strength.mean()), 1e-30)
    # A float unit has no bit-width that its neighbours could be near to.
    is_float = np.array([bool((s == 32).all()) for s in states])
    result: Vector = np.where(is_float[1:] | is_float[:-1], 0.0, coupling)
    return result
