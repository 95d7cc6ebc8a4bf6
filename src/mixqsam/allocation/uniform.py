"""Uniform models: the same bits for all units, except those that the user keeps at other bits."""

from collections.abc import Mapping, Sequence
from itertools import product

from mixqsam.allocation.budget import Budget, UniformCosts, parse_keep
from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.feasible import meets
from mixqsam.errors import BudgetError
from mixqsam.measurements import Analysis
from mixqsam.plan import CANDIDATE_BITS, HALF_BITS, UNIT_BITS, BitPlan, UnitBits


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
        latency=analysis.costs.latency(plan) if analysis.costs.times else None,
    )


def nearest_uniform(analysis: Analysis, allocation: Allocation, *, keep: Sequence[str] = ()) -> Allocation | None:
    """Find the largest uniform model within an allocation's budget; None if none fits.

    Weights and activations have their bits apart. The bits that a budget such as `W4A8` names are taken if they fit.
    Otherwise the largest model is the one whose lower bit-width is highest, then the one with most bits, then the one
    with most BitOps. Where the allocation has 16 bits somewhere, the uniform model may have them too.

    Args:
        analysis: units and costs.
        allocation: the allocation whose limits hold.
        keep: rules that fix the bits of units; they hold in the uniform model, too.
    """
    if allocation.objective is None:
        return allocation
    fixed = parse_keep(keep, names=[unit.name for unit in analysis.units])
    named = _named_bits(allocation.budget.text)
    chosen = {width for bits in allocation.plan.bits.values() for width in (bits.weight, bits.activation)}
    widths = UNIT_BITS if HALF_BITS in chosen else CANDIDATE_BITS
    others = sorted((UnitBits(w, a) for w, a in product(widths, repeat=2)), key=_rank, reverse=True)
    fitting: list[Allocation] = []
    for bits in [*named, *others]:
        uniform = uniform_allocation(analysis, bits, fixed=fixed)
        if not meets(analysis.costs, uniform.plan, allocation.budget):
            continue
        if bits in named:
            return uniform
        if fitting and _rank(bits) < _rank(_bits_of(fitting[0].budget.text)):
            break
        fitting.append(uniform)
    return max(fitting, key=lambda uniform: uniform.bitops, default=None)


def _rank(bits: UnitBits) -> tuple[int, int]:
    return min(bits.weight, bits.activation), bits.weight + bits.activation


def _named_bits(text: str) -> list[UnitBits]:
    """Bits of the uniform models that a budget names, e.g. of `W4A8`."""
    try:
        terms = Budget.parse(text).terms
    except BudgetError:
        # Limits of a file may have any text.
        return []
    return [term.bits for term in terms if isinstance(term, UniformCosts)]


def uniform_label(analysis: Analysis, uniform: Allocation) -> str:
    """Name the bits of a uniform model, and say whether some units keep others: `W4A4`, or `W4A4 + kept`."""
    bits = uniform.budget.text
    is_whole = uniform.plan == BitPlan.uniform(analysis.units, _bits_of(bits))
    return bits if is_whole else f"{bits} + kept"


def _bits_of(text: str) -> UnitBits:
    budget = Budget.parse(f"uniform:{text}")
    assert budget.uniform is not None  # noqa: S101  (the text says uniform)
    return budget.uniform
