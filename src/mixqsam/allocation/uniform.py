"""Uniform models: the same bits for all units, except those that the user keeps at other bits."""

from collections.abc import Mapping, Sequence
from itertools import product

from mixqsam.allocation.budget import Budget, parse_keep
from mixqsam.allocation.choose import Allocation
from mixqsam.plan import CANDIDATE_BITS, Analysis, BitPlan, UnitBits


def uniform_allocation(
    analysis: Analysis, bits: UnitBits, *, fixed: Mapping[str, UnitBits] | None = None
) -> Allocation:
    """Allocate the same bits to all units; `fixed` holds the bits of units that keep others."""
    budget = Budget(f"uniform:{bits}", uniform=bits)
    plan = budget.uniform_plan(analysis.costs, fixed=fixed)
    return Allocation(
        plan,
        budget.limits(analysis.costs, fixed=fixed),
        None,
        analysis.costs.size(plan),
        float(analysis.costs.bitops(plan)),
    )


def nearest_uniform(analysis: Analysis, allocation: Allocation, *, keep: Sequence[str] = ()) -> Allocation | None:
    """Find the largest uniform model within an allocation's budget; None if none fits.

    Weights and activations have their bits apart. Of the models that fit, the largest is the one whose lower
    bit-width is highest, then the one with most bits, then the one with most BitOps.

    Args:
        analysis: units and costs.
        allocation: the allocation whose limits hold.
        keep: rules that fix the bits of units; they hold in the uniform model, too.
    """
    if allocation.objective is None:
        return allocation
    fixed = parse_keep(keep, names=[unit.name for unit in analysis.units])
    size, bitops = allocation.budget.size, allocation.budget.bitops
    best: Allocation | None = None
    rank: tuple[float, ...] = ()
    for weight, activation in product(CANDIDATE_BITS, repeat=2):
        uniform = uniform_allocation(analysis, UnitBits(weight, activation), fixed=fixed)
        fits = (size is None or uniform.size <= size) and (bitops is None or uniform.bitops <= bitops)
        uniform_rank = (min(weight, activation), weight + activation, uniform.bitops)
        if fits and uniform_rank > rank:
            best, rank = uniform, uniform_rank
    return best


def uniform_label(analysis: Analysis, uniform: Allocation) -> str:
    """Name the bits of a uniform model, and say whether some units keep others: `W4A4`, or `W4A4 + kept`."""
    bits = uniform.budget.text
    is_whole = uniform.plan == BitPlan.uniform(analysis.units, _bits_of(bits))
    return bits if is_whole else f"{bits} + kept"


def _bits_of(text: str) -> UnitBits:
    budget = Budget.parse(f"uniform:{text}")
    assert budget.uniform is not None  # noqa: S101  (the text says uniform)
    return budget.uniform
