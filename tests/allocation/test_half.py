"""Units of 16 bits: what they cost, and when they are chosen."""

import time
from dataclasses import replace
from math import ceil

import numpy as np
import pytest

from mixqsam.allocation.program import UTILITIES, build_program, interpolate
from mixqsam.allocation.uniform import nearest_uniform
from mixqsam.errors import ArtifactError, BudgetError
from mixqsam.pipeline.bits import AllocationOptions
from mixqsam.plan import FLOAT, HALF_BITS, UNIT_BITS, BitPlan, Unit, UnitBits
from mixqsam.sam.load import load_sam
from tests.allocation.test_allocation import allocate, analysis, limits_of, objective

LINEAR = Unit("net.lin", "linear", "encoder", 5000, 50, 10**6, "projection", "0")
PRODUCT = Unit("net.qk", "product", "encoder", 0, 0, 10**6, "scores", "0")


@pytest.mark.parametrize(
    ("unit", "bits", "size", "bitops"),
    [
        (LINEAR, UnitBits(4, 4), 20_000 + 8 * (150 + 5), 16),
        (LINEAR, UnitBits(4, 16), 20_000 + 8 * 150, 64),
        (LINEAR, UnitBits(16, 4), 80_000 + 8 * 5, 64),
        (LINEAR, UnitBits(16, 16), 80_000, 256),
        (LINEAR, FLOAT, 160_000, 1024),
        (PRODUCT, UnitBits(4, 4), 8 * 10, 16),
        (PRODUCT, UnitBits(16, 4), 8 * 5, 64),
        (PRODUCT, UnitBits(16, 16), 0, 256),
    ],
    ids=str,
)
def test_16_bits_cost_16_bits_and_no_scales(unit: Unit, bits: UnitBits, size: int, bitops: int) -> None:
    costs = replace(analysis(2).costs, units=(unit,))
    assert costs.unit_size_bits(unit, bits) == size
    assert costs.unit_bitops(unit, bits) == bitops * 10**6


def test_what_a_recipe_adds_belongs_to_a_quantizer_of_activations() -> None:
    costs = replace(analysis(2).costs, units=(LINEAR,), extra_bytes={LINEAR.name: 100})
    assert costs.unit_size_bits(LINEAR, UnitBits(4, 4)) == 20_000 + 8 * (150 + 5 + 100)
    assert costs.unit_size_bits(LINEAR, UnitBits(4, 16)) == 20_000 + 8 * 150


def test_plans_with_16_bits_round_trip_and_others_are_refused() -> None:
    plan = BitPlan({"a": UnitBits(16, 16), "b": UnitBits(4, 16), "c": UnitBits(16, 4), "d": FLOAT})
    assert BitPlan.from_json(plan.to_json()) == plan
    assert [str(bits) for bits in plan.bits.values()] == ["W16A16", "W4A16", "W16A4", "float"]
    for weight, activation in ((12, 4), (16, 32), (32, 16), (9, 9)):
        with pytest.raises(ArtifactError, match="expected 2 to 8 or 16"):
            BitPlan.from_json({"a": {"weight": weight, "activation": activation}})


def test_a_size_takes_activations_of_16_bits_everywhere() -> None:
    toy = analysis(20)
    found = allocate(toy, "size=0.16x", objective=objective(coupling=0), candidates=UNIT_BITS, tied=False)
    narrow = allocate(toy, "size=0.16x", objective=objective(coupling=0), tied=False)
    assert found.gap == 0
    assert found.budget.size is not None
    assert found.size <= found.budget.size
    assert {found.plan.bits[u.name].activation for u in toy.units} == {16}
    assert {found.plan.bits[u.name].weight for u in toy.units if u.kind == "product"} == {16}
    assert found.value > narrow.value
    uniform = nearest_uniform(toy, found)
    assert uniform is not None
    assert uniform.budget.text.endswith("A16")
    assert uniform.size <= found.budget.size
    for budget in ("W4A16", "W4A4", "W16A16"):
        mixed = allocate(toy, budget, objective=objective(coupling=0), candidates=UNIT_BITS, tied=False)
        assert nearest_uniform(toy, mixed).budget.text == budget  # type: ignore[union-attr]
    # Without 16 bits, activations of 8 bits cost nothing in a size.
    assert nearest_uniform(toy, narrow).budget.text == "W4A8"  # type: ignore[union-attr]


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("budget", ["W4A4", "W4A16", "W16A16", "W8A16,bitops=0.03x"])
def test_both_limits_hold_and_16_bits_are_chosen_where_they_pay(utility: str, budget: str) -> None:
    toy = analysis(20)
    found = allocate(toy, budget, objective=objective(utility, coupling=0), candidates=UNIT_BITS, tied=False)
    narrow = allocate(toy, budget, objective=objective(utility, coupling=0), tied=False)
    assert found.gap == 0
    assert found.budget.size is not None
    assert found.budget.bitops is not None
    assert found.size <= found.budget.size
    assert found.bitops <= found.budget.bitops
    assert found.value >= narrow.value
    if budget == "W16A16":
        assert set(found.plan.bits.values()) == {UnitBits(16, 16)}


def test_a_size_that_only_activations_without_scales_meet() -> None:
    toy = analysis(9)
    smallest = BitPlan.uniform(toy.units, UnitBits(2, 16))
    size, fewest = ceil(toy.costs.size(smallest)), toy.costs.bitops(BitPlan.uniform(toy.units, UnitBits(2, 2)))
    options = {"objective": objective(), "candidates": UNIT_BITS, "tied": False}
    assert allocate(toy, f"size={size}B", **options).plan == smallest
    found = allocate(toy, f"size={size + 5}B,bitops={0.8 * toy.costs.bitops(smallest)}", **options)
    assert found.size <= size + 5
    assert found.bitops <= 0.8 * toy.costs.bitops(smallest)
    assert {bits.weight for name, bits in found.plan.bits.items() if name.endswith("lin")} == {2}
    with pytest.raises(BudgetError, match="The smallest feasible budget is") as caught:
        allocate(toy, f"size={size - 1}B", **options)
    named = str(caught.value).split("The smallest feasible budget is ")[1].rstrip(".")
    assert allocate(toy, named, **options).plan == smallest
    with pytest.raises(BudgetError, match="smallest feasible budget"):
        allocate(toy, f"size={size}B,bitops={fewest}", **options)


def test_16_bits_are_fixed_by_pattern_and_chosen_by_tied_units() -> None:
    toy = analysis(9)
    found = allocate(toy, "0.6x", objective=objective(), keep=["layers.0.*=16", "*.qk=W4A16"])
    assert found.plan.bits["net.layers.0.lin"] == UnitBits(16, 16)
    assert found.plan.bits["net.layers.1.qk"] == UnitBits(4, 16)
    tied = allocate(toy, "W16A16", objective=objective(), candidates=UNIT_BITS)
    assert set(tied.plan.bits.values()) == {UnitBits(16, 16)}
    uniform = allocate(toy, "uniform:W4A16", objective=objective())
    expected = BitPlan.uniform(toy.units, UnitBits(4, 16))
    assert uniform.plan == expected
    assert uniform.plan.bits["net.layers.1.qk"] == UnitBits(16, 16)


def test_a_divergence_at_16_bits_counts_as_none() -> None:
    values = np.array([[[1.0, 0.01], [2.0, 0.02]]])
    found = interpolate(values, (2, 8), (8, HALF_BITS, 32))
    assert np.allclose(found, [[[0.01, 0, 0], [0.02, 0, 0]]])


def test_free_bits_may_be_16_and_tied_ones_are_the_papers() -> None:
    assert AllocationOptions().choices == UNIT_BITS
    assert AllocationOptions(tied=True).choices == UNIT_BITS[:-1]
    assert AllocationOptions(tied=True, candidates=(4, 16)).choices == (4, 16)
    assert AllocationOptions(candidates="2-8,16").choices == UNIT_BITS  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", ["W4A4", "W6A6", "W4A4,size=0.12x", "size=0.15x"])
def test_optimality_is_proven_fast_for_a_whole_model(budget: str) -> None:
    """The 120 units of SAM-B, with 64 states each."""
    costs = load_sam("sam-tiny").costs()
    toy = analysis(len(costs.units), seed=5)
    whole = replace(toy, costs=costs)
    started = time.monotonic()
    program = build_program(
        whole, limits_of(budget, costs), objective("fisher", coupling=0), candidates=UNIT_BITS, tied=False, fixed={}
    )
    assert {len(states) for states in program.states} == {64}
    found = allocate(whole, budget, objective=objective("fisher", coupling=0), candidates=UNIT_BITS, tied=False)
    assert found.gap == 0
    assert time.monotonic() - started < 20
