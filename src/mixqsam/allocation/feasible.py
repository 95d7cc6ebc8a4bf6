"""Count what states cost, and check that a choice of bits meets a budget."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mixqsam.allocation.budget import Limits
from mixqsam.allocation.cheapest import find_cheapest
from mixqsam.errors import BudgetError
from mixqsam.plan import BitPlan, Costs, UnitBits, Vector

# Relative; far below what a limit's text can say.
_ROUNDING = 1e-11


def count_costs(costs: Costs, budget: Limits, states: Sequence[NDArray[np.int64]]) -> tuple[tuple[Vector, ...], Vector]:
    """Count what the states cost, in shares of the budget, and what share the units may use; see `Program`."""
    columns = []
    for unit, allowed in zip(costs.units, states, strict=True):
        choices = [UnitBits(int(w), int(a)) for w, a in allowed]
        shares = []
        if budget.size is not None:
            shares.append([costs.unit_size_bits(unit, choice) / 8 / budget.size for choice in choices])
        if budget.bitops is not None:
            shares.append([costs.unit_bitops(unit, choice) / budget.bitops for choice in choices])
        if budget.latency is not None:
            shares.append([costs.unit_latency(unit, choice) / budget.latency for choice in choices])
        columns.append(np.array(shares, float).reshape(len(shares), len(choices)).T)
    capacity = [] if budget.size is None else [1 - costs.compact_bytes / budget.size]
    capacity += [] if budget.bitops is None else [1.0]
    capacity += [] if budget.latency is None else [1 - costs.fixed_latency / budget.latency]
    # Uniform models meet their budgets exactly, but sums of shares have rounding errors.
    tolerance = 1e-12
    return tuple(columns), np.array(capacity) + tolerance


def check_feasible(costs: Costs, budget: Limits, states: Sequence[NDArray[np.int64]]) -> None:
    """Check that the cheapest choice of bits meets the budget.

    Raises:
        BudgetError: the budget is too small; the message names the smallest feasible one.
    """
    plan = find_cheapest_plan(costs, budget, states)
    if meets(costs, plan, budget):
        return
    if budget.latency is None:
        raise BudgetError(_describe_shortage(costs, budget, size=costs.size(plan), bitops=costs.bitops(plan)))
    # What remains is short of time alone: the plan is the fastest one within the other limits.
    check_feasible(costs, replace(budget, latency=None, backend=""), states)
    raise BudgetError(_describe_slowness(costs, budget, latency=costs.latency(plan)))


def meets(costs: Costs, plan: BitPlan, budget: Limits) -> bool:
    """Whether bits are within all limits of a budget."""
    pairs = (
        (budget.size, costs.size(plan)),
        (budget.bitops, float(costs.bitops(plan))),
        (budget.latency, costs.latency(plan)),
    )
    # Sums of seconds have rounding errors; sizes and BitOps are exact.
    return all(limit is None or used <= limit * (1 + _ROUNDING) for limit, used in pairs)


def find_cheapest_plan(costs: Costs, budget: Limits, states: Sequence[NDArray[np.int64]]) -> BitPlan:
    """Find the bits that are most likely to meet a budget; see `find_cheapest`."""
    columns, capacity = count_costs(costs, budget, states)
    fewest = [s[i] for s, i in zip(states, find_cheapest(states, columns, capacity), strict=True)]
    return BitPlan({u.name: UnitBits(int(s[0]), int(s[1])) for u, s in zip(costs.units, fewest, strict=True)})


def _describe_slowness(costs: Costs, budget: Limits, *, latency: float) -> str:
    """Say which time a budget allows, and which one is the shortest that bits can reach."""
    assert budget.latency is not None  # noqa: S101  (callers have a limit)
    whole, least = costs.latency(costs.float_plan), _round_up(latency)
    within = " within the other limits" if budget.size is not None or budget.bitops is not None else ""
    return (
        f"No choice of bits meets the budget {budget.text!r}: it allows {_format_amount(budget.latency)} s "
        f"({_format_share(budget.latency, whole)} of the float model's latency with {budget.backend}), and the fastest "
        f"bits{within} take {_format_amount(latency)} s ({_format_share(latency, whole)}). No choice of bits changes "
        f"{_format_amount(costs.fixed_latency)} s of these. The shortest feasible latency is "
        f"latency<={least:.10g}s@{budget.backend}."
    )


def _describe_shortage(costs: Costs, budget: Limits, *, size: float, bitops: float) -> str:
    """Say what an exceeded budget allows, and what the fewest bits take, in MB and in shares of the float model."""
    whole, whole_bitops = costs.size(costs.float_plan), float(costs.bitops(costs.float_plan))
    terms, exceeded = [], []
    if budget.size is not None:
        terms.append(f"{_round_up(max(size, budget.size) / 1e6):.10g}MB")
        if size > budget.size:
            exceeded.append(
                f"{_format_amount(budget.size / 1e6)} MB ({_format_share(budget.size, whole)} of the float model's "
                f"size), and the fewest bits take {_format_amount(size / 1e6)} MB ({_format_share(size, whole)})"
            )
    if budget.bitops is not None:
        terms.append(f"bitops={_round_up(max(bitops, budget.bitops) / 1e9):.10g}G")
        if bitops > budget.bitops:
            exceeded.append(
                f"{_format_amount(budget.bitops / 1e9)} GBitOps ({_format_share(budget.bitops, whole_bitops)} of the "
                f"float model's), and the fewest bits take {_format_amount(bitops / 1e9)} "
                f"({_format_share(bitops, whole_bitops)})"
            )
    return (
        f"No choice of bits meets the budget {budget.text!r}: it allows {'; '.join(exceeded)}. "
        f"The smallest feasible budget is {','.join(terms)}."
    )


def _format_share(value: float, whole: float) -> str:
    """Format a share in percent; small ones with a digit."""
    share = 100 * value / max(whole, 1e-300)
    if share < 0.1:
        return "under 0.1%"
    return f"{share:.0f}%" if share >= 10 else f"{share:.1f}%"


def _format_amount(value: float) -> str:
    """Format a number of MB or GBitOps with four digits."""
    return "under 0.001" if value < 0.001 else f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"


def _round_up(value: float, *, digits: int = 4) -> float:
    """Round a number up to some digits, so that what just fits still fits."""
    if value <= 0:
        return 0.0
    scale = 10.0 ** (digits - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale * (1 - 1e-12)) / scale
