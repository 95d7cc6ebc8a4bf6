"""Times of units from times of models: which models are timed, and what follows from known times."""

from collections import Counter
from typing import get_args

import numpy as np
import pytest

from mixqsam.evaluation.unit_times import (
    GROUPS,
    FittedTimes,
    TimedPlan,
    design_plans,
    fit_times,
    group_units,
    uniform_plan,
)
from mixqsam.families.mobile_sam_config import MobileSamConfig
from mixqsam.plan import BitPlan, Part, Unit
from mixqsam.sam.load import load_sam
from mixqsam.sam.units import count_costs
from mixqsam.times import Arithmetic, UnitTimes

UNITS = load_sam("sam-tiny").costs().units
RNG = np.random.default_rng(0)
# Unit → seconds that `mixed` adds to `integer`, and `float` to `half`; some are faster with floats.
TRUE = {unit.name: (unit.multiply_adds / 1e9 * (1 if unit.kind == "linear" else -0.3), 2e-3) for unit in UNITS}
KINDS: tuple[Arithmetic, ...] = ("integer", "narrow", "mixed", "half", "float")


def seconds_of(plan: BitPlan, part: Part) -> float:
    """The time of a model whose units add up."""
    total = 2.0 if part == "encoder" else 0.1
    for unit in UNITS:
        if unit.part == part:
            mixed, more = TRUE[unit.name]
            half = mixed * (0.9 if unit.parameters else 1)
            seconds = {"integer": 0.0, "narrow": 1e-3, "mixed": mixed, "half": half, "float": half + more}
            total += seconds[unit.arithmetic(plan.bits[unit.name])]
    return total


def timed(plans: list[BitPlan], *, noise: float = 0.0) -> list[TimedPlan]:
    return [
        TimedPlan(plan, *(seconds_of(plan, part) * (1 + noise * RNG.normal()) for part in get_args(Part)))
        for plan in plans
    ]


def predict(fit: FittedTimes, plan: BitPlan) -> float:
    costs = load_sam("sam-tiny").costs()
    table = UnitTimes("onnx", 1, {}, fit.fixed["encoder"], fit.fixed["decoder"], fit.seconds)
    return costs.__class__(costs.units, 0, 0, times=table).latency(plan)


def random_plan(seed: int) -> BitPlan:
    rng = np.random.default_rng(seed)
    kinds = [uniform_plan(UNITS, "integer"), uniform_plan(UNITS, "mixed")]
    return BitPlan({unit.name: kinds[rng.integers(2)].bits[unit.name] for unit in UNITS})


@pytest.mark.parametrize("units", [UNITS, count_costs(MobileSamConfig()).units], ids=["sam", "mobile_sam"])
def test_groups_hold_every_unit_once_and_like_goes_with_like(units: tuple[Unit, ...]) -> None:
    for part in get_args(Part):
        groups = group_units(units, part)
        names = [unit.name for group in groups for unit in group]
        assert sorted(names) == sorted(unit.name for unit in units if unit.part == part)
        assert 1 <= len(groups) <= GROUPS
        roles = [{unit.role for unit in group} for group in groups]
        assert max(len(found) for found in roles) <= 2


def test_each_group_is_mixed_in_one_half_of_the_mixtures_whatever_the_others_are() -> None:
    plans = design_plans(UNITS)
    assert len(plans) == 2 * GROUPS + 3
    assert all(uniform_plan(UNITS, kind) in plans for kind in KINDS)
    for part in get_args(Part):
        groups = group_units(UNITS, part)
        mixed = np.array([[plan.bits[g[0].name].activation == 16 for g in groups] for plan in plans[:-3]], float)
        assert np.array_equal(mixed.mean(0), np.full(len(groups), 0.5))
        assert np.allclose(np.cov(mixed.T, bias=True), np.eye(len(groups)) / 4)
        assert Counter(map(tuple, mixed)) == Counter(map(tuple, 1 - mixed))


def test_times_that_add_up_within_groups_are_found() -> None:
    fit = fit_times(UNITS, timed(design_plans(UNITS)))
    assert fit.error < 0.01
    for seed in range(5):
        plan = random_plan(seed)
        expected = seconds_of(plan, "encoder") + seconds_of(plan, "decoder")
        assert predict(fit, plan) == pytest.approx(expected, rel=0.02)
    for kind in KINDS:
        plan = uniform_plan(UNITS, kind)
        assert predict(fit, plan) == pytest.approx(seconds_of(plan, "encoder") + seconds_of(plan, "decoder"), rel=5e-3)
    assert all(min(own.values()) == 0 for own in fit.seconds.values())
    assert all(fit.seconds[unit.name]["half"] == 0 for unit in UNITS if unit.kind == "product")


def test_noise_of_two_percent_moves_predictions_little() -> None:
    fit = fit_times(UNITS, timed(design_plans(UNITS), noise=0.02))
    for seed in range(5):
        plan = random_plan(seed)
        expected = seconds_of(plan, "encoder") + seconds_of(plan, "decoder")
        assert predict(fit, plan) == pytest.approx(expected, rel=0.06)
