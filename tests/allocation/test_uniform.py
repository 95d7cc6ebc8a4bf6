"""The baseline: the largest uniform model within a budget, weights and activations apart."""

import pytest

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation, allocate
from mixqsam.allocation.uniform import nearest_uniform, uniform_allocation, uniform_label
from mixqsam.plan import UnitBits
from tests.allocation.test_allocation import analysis, objective

TOY = analysis(7)


def chosen(text: str, *keep: str) -> Allocation:
    return allocate(TOY, Budget.parse(text), objective=objective(), tied=False, keep=keep)


def baseline(text: str, *keep: str) -> str:
    uniform = nearest_uniform(TOY, chosen(text, *keep), keep=keep)
    assert uniform is not None
    return uniform_label(TOY, uniform)


@pytest.mark.parametrize("bits", ["W4A8", "W8A4", "W4A4", "W2A3", "W8A8", "W3A7"])
def test_the_baseline_of_a_uniform_budget_is_the_budget_itself(bits: str) -> None:
    assert baseline(bits) == bits
    assert baseline(f"uniform:{bits}") == bits


def test_a_limit_of_one_quantity_leaves_the_other_bits_at_their_highest() -> None:
    size = uniform_allocation(TOY, UnitBits(5, 5)).size
    assert baseline(f"{size + 1:.0f}B") == "W5A8"
    assert baseline(f"{size - 1:.0f}B") == "W4A8"
    bitops = uniform_allocation(TOY, UnitBits(5, 6)).bitops
    assert baseline(f"bitops={bitops / 1e6:.9f}M") in {"W5A6", "W6A5"}


def test_the_baseline_keeps_what_the_user_keeps_within_the_budget() -> None:
    name = min((unit for unit in TOY.units if unit.parameters), key=lambda unit: unit.parameters).name
    uniform = nearest_uniform(TOY, chosen("W4A4", f"{name}=8"), keep=[f"{name}=8"])
    assert uniform is not None
    limits = chosen("W4A4").budget
    assert uniform.plan.bits[name] == UnitBits(8, 8)
    assert uniform.size <= (limits.size or 0)
    assert uniform.bitops <= (limits.bitops or 0)
    assert uniform_label(TOY, uniform).endswith(" + kept")
    assert baseline("uniform:W4A4", f"{name}=8") == "W4A4 + kept"


def test_nothing_fits_a_budget_below_two_bits_everywhere() -> None:
    least = uniform_allocation(TOY, UnitBits(2, 2))
    assert nearest_uniform(TOY, chosen(f"{least.size + 1:.0f}B")) is not None
    small = Allocation(least.plan, Budget.parse("1B").limits(TOY.costs), objective(), 0.0, 0.0)
    assert nearest_uniform(TOY, small) is None
