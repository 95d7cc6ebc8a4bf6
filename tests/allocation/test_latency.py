"""Limits of the latency: what is understood, what is refused, and what the program makes of them."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from mixqsam.allocation.budget import Amount, Budget
from mixqsam.allocation.cheapest import find_cheapest
from mixqsam.allocation.choose import Allocation, check_request
from mixqsam.allocation.latency import LatencyLimit
from mixqsam.allocation.quality import QualityTarget
from mixqsam.allocation.uniform import nearest_uniform
from mixqsam.errors import ArtifactError, BudgetError
from mixqsam.options.names import BACKEND_NAMES
from mixqsam.pipeline.stages import BACKEND_NAMES as KNOWN
from mixqsam.plan import CANDIDATE_BITS, FLOAT, UNIT_BITS, BitPlan, UnitBits
from mixqsam.times import ARITHMETICS, UnitTimes
from tests.allocation.test_allocation import allocate, analysis, objective, times

TOY = analysis(12)
TIMED = TOY.with_times(times(TOY.units))


def _bits(found: Allocation, name: str) -> tuple[int, int]:
    bits = found.plan.bits[name]
    return bits.weight, bits.activation


def test_the_names_of_backends_are_those_that_exist() -> None:
    assert BACKEND_NAMES == KNOWN


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("latency<=0.6s@openvino", LatencyLimit("openvino", 0.6)),
        (" Latency <= 600 ms @ OpenVINO ", LatencyLimit("openvino", 0.6)),
        ("latency≤.5x@onnx", LatencyLimit("onnx", 0.5, is_share=True)),
        ("latency<=50%@torch", LatencyLimit("torch", 0.5, is_share=True)),
        ("latency<=1x@torch", LatencyLimit("torch", 1.0, is_share=True)),
    ],
)
def test_limits_are_understood(text: str, limit: LatencyLimit) -> None:
    budget = Budget.parse(text)
    assert budget.latency == limit
    assert (budget.terms, budget.quality, budget.uniform, budget.text) == ((), None, None, text.strip())
    assert Budget.parse(str(limit)).latency == limit


def test_a_limit_goes_with_others_and_with_a_quality() -> None:
    budget = Budget.parse("5.5MB, latency<=0.5x@openvino, iou>=0.9")
    assert budget.latency == LatencyLimit("openvino", 0.5, is_share=True)
    assert budget.quality == QualityTarget("iou", 0.9)
    assert budget.terms == (Amount("size", 5.5e6),)
    assert budget.with_size(4e6).latency == budget.latency
    assert budget.limits_activations
    assert not Budget.parse("5.5MB").limits_activations


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latency<=0.6s", "names no backend (torch, onnx, openvino)"),
        ("latency<=0.6s@tensorrt", "'tensorrt' is unknown; choose torch, onnx, openvino"),
        ("latency<=0.6@onnx", "write 0.6s, 0.6ms"),
        ("latency<=0s@onnx", "above 0"),
        ("latency<=-1s@onnx", "above 0"),
        ("latency<=0x@onnx", "above 0"),
        ("latency<=1.5x@onnx", "more time than the float model takes"),
        ("latency<=9000s@onnx", "no image takes 9,000 s"),
        ("latency<=1e400s@onnx", "above 0"),
        ("latency>=0.6s@onnx", "did you mean latency<=0.6s@onnx?"),
        ("latency=0.6s@onnx", "did you mean latency<=0.6s@onnx?"),
        ("latency<=fast@onnx", "cannot be understood"),
        ("latency<=@onnx", "cannot be understood"),
        # A shell makes this of latency<=0.6s@openvino without quotes.
        ("latency", 'quotes: --budget "latency<=0.6s@openvino"'),
        ("latency<=0.6s@onnx,latency<=0.5s@torch", "several limits of the latency"),
        ("uniform:W8A8,latency<=0.6s@onnx", "cannot be understood"),
    ],
)
def test_limits_that_cannot_be_are_refused_with_a_suggestion(text: str, words: str) -> None:
    with pytest.raises(BudgetError) as refused:
        Budget.parse(text)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("bits", "layer", "product"),
    [
        (UnitBits(2, 8), "integer", "narrow"),
        (UnitBits(8, 2), "narrow", "narrow"),
        (UnitBits(8, 8), "integer", "integer"),
        (UnitBits(4, 16), "mixed", "mixed"),
        (UnitBits(16, 4), "mixed", "mixed"),
        (UnitBits(16, 16), "half", "half"),
        (FLOAT, "float", "float"),
    ],
    ids=str,
)
def test_bits_say_how_a_unit_is_computed(bits: UnitBits, layer: str, product: str) -> None:
    units = {unit.kind: unit for unit in TOY.units}
    assert units["linear"].arithmetic(bits) == layer
    assert units["product"].arithmetic(bits) == product


def test_a_latency_is_the_sum_of_what_is_fixed_and_of_the_units_with_the_decoder_once_a_prompt() -> None:
    costs = TIMED.with_prompts(3).costs
    table = costs.times
    assert table is not None
    plan = BitPlan({unit.name: UnitBits(4, 4) if i % 2 else UnitBits(4, 16) for i, unit in enumerate(costs.units)})
    expected = table.encoder + 3 * table.decoder
    for i, unit in enumerate(costs.units):
        expected += table.seconds[unit.name]["narrow" if i % 2 else "mixed"] * (3 if unit.part == "decoder" else 1)
    assert costs.latency(plan) == pytest.approx(expected)
    assert replace(costs, times=None).latency(plan) == 0


def test_a_share_is_one_of_the_float_models_latency() -> None:
    costs = TIMED.costs
    limits = Budget.parse("latency<=0.5x@openvino").limits(costs)
    assert limits.latency == pytest.approx(costs.latency(costs.float_plan) / 2)
    assert (limits.backend, limits.size, limits.bitops) == ("openvino", None, None)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_limit_needs_times_of_its_backend(backend: str) -> None:
    measured = TOY if backend == "openvino" else TIMED
    with pytest.raises(BudgetError, match=f"mixqsam benchmark MODEL --units --backends {backend}"):
        allocate(measured, f"latency<=0.5x@{backend}", objective=objective())


@pytest.mark.parametrize(
    "text", ["latency<=0.8x@openvino", "0.2x,latency<=0.8x@openvino", "W6A6,latency<=0.9x@openvino"]
)
def test_allocations_are_within_all_limits_and_proven(text: str) -> None:
    found = allocate(TIMED, text, objective=objective(coupling=0), candidates=UNIT_BITS, tied=False)
    free = allocate(TIMED, text.rpartition(",")[0] or "9MB", objective=objective(coupling=0), candidates=UNIT_BITS)
    limits = found.budget
    assert found.gap == 0
    assert found.latency == TIMED.costs.latency(found.plan)
    assert limits.latency is not None
    assert found.latency <= limits.latency * (1 + 1e-9)
    assert limits.size is None or found.size <= limits.size
    assert limits.bitops is None or found.bitops <= limits.bitops
    assert free.latency is None
    uniform = nearest_uniform(TIMED, found)
    assert uniform is None or (uniform.latency or 0) <= limits.latency * (1 + 1e-9)


def test_less_time_is_never_better_and_takes_units_to_integers() -> None:
    shares = (0.65, 0.7, 0.8, 0.9, 1.0)
    found = [
        allocate(
            TIMED, f"latency<={share}x@openvino", objective=objective(coupling=0), candidates=UNIT_BITS, tied=False
        )
        for share in shares
    ]
    values = [one.value for one in found]
    assert values == sorted(values)
    # With all the time that the float model takes, all units have 16 bits.
    assert set(found[-1].plan.bits.values()) == {UnitBits(16, 16)}
    assert "integer" in {unit.arithmetic(found[0].plan.bits[unit.name]) for unit in TIMED.units}


def test_a_unit_that_integers_slow_down_keeps_16_bits_in_the_fastest_model() -> None:
    seconds = {
        unit.name: {one: 0.1 * ((one in {"integer", "narrow"}) == (unit.kind == "product")) for one in ARITHMETICS}
        for unit in TOY.units
    }
    timed = TOY.with_times(UnitTimes("openvino", 1, {}, 0.05, 0.0, seconds))
    found = allocate(timed, "latency<=50ms@openvino", objective=objective(), candidates=UNIT_BITS, tied=False)
    in_floats = {(unit.kind, max(_bits(found, unit.name)) == 16) for unit in TOY.units}
    assert in_floats == {("product", True), ("linear", False)}


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("latency<=55ms@openvino", UNIT_BITS),
        ("0.2x,latency<=60ms@openvino", CANDIDATE_BITS),
        ("W2A2,latency<=60ms@openvino", UNIT_BITS),
        ("W2A3,latency<=60ms@openvino", UNIT_BITS),
    ],
)
def test_an_impossible_limit_names_the_shortest_feasible_one(text: str, candidates: tuple[int, ...]) -> None:
    options = {"objective": objective(), "candidates": candidates, "tied": False}
    with pytest.raises(BudgetError, match="the fastest bits") as refused:
        allocate(TIMED, text, **options)
    message = str(refused.value)
    assert "No choice of bits changes 0.06 s of these" in message
    shortest = message.split("feasible latency is ")[1].rstrip(".")
    others = text.rpartition(",")[0]
    reached = allocate(TIMED, ",".join(filter(None, [others, shortest])), **options)
    assert reached.latency is not None
    slower = float(shortest.removeprefix("latency<=").removesuffix("s@openvino"))
    assert reached.latency == pytest.approx(slower, rel=2e-3)
    with pytest.raises(BudgetError, match="shortest feasible"):
        allocate(TIMED, ",".join(filter(None, [others, f"latency<={0.995 * slower}s@openvino"])), **options)
    with pytest.raises(BudgetError, match="shortest feasible"):
        check_request(TIMED.costs, Budget.parse(text), candidates=candidates, tied=False)


def test_a_size_that_cannot_be_is_named_before_the_latency() -> None:
    with pytest.raises(BudgetError, match="The smallest feasible budget is .*MB"):
        allocate(TIMED, "1kB,latency<=60ms@openvino", objective=objective(), candidates=UNIT_BITS)


def test_kept_units_count_with_their_own_time() -> None:
    found = allocate(
        TIMED,
        "latency<=1x@openvino",
        objective=objective(),
        candidates=UNIT_BITS,
        tied=False,
        keep=["layers.0.*=float"],
    )
    table = TIMED.costs.times
    assert table is not None
    rest = [unit for unit in TIMED.units if unit.name != "net.layers.0.lin"]
    seconds = sum(table.seconds[unit.name][unit.arithmetic(found.plan.bits[unit.name])] for unit in rest)
    fixed = TIMED.costs.fixed_latency + table.seconds["net.layers.0.lin"]["float"]
    assert found.latency == pytest.approx(fixed + seconds)


@pytest.mark.parametrize("seed", range(20))
def test_the_cheapest_choice_is_feasible_wherever_one_is(seed: int) -> None:
    """Three costs that disagree, against all choices."""
    rng = np.random.default_rng(seed)
    states = [np.array([(b, b) for b in (2, 4, 8, 16)])] * 4
    costs = [rng.exponential(size=(4, 3)) for _ in states]
    totals = {
        choice: np.sum([c[i] for c, i in zip(costs, choice, strict=True)], axis=0)
        for choice in product(range(4), repeat=4)
    }
    tightest = min(totals.values(), key=lambda usage: float(usage.max()))
    for capacity in (tightest, tightest * 1.2, tightest * 0.9):
        found = totals[tuple(int(i) for i in find_cheapest(states, costs, capacity + 1e-9))]
        possible = any((usage <= capacity + 1e-9).all() for usage in totals.values())
        assert possible == bool((found <= capacity + 1e-9).all())
        within = [usage[2] for usage in totals.values() if (usage[:2] <= capacity[:2] + 1e-9).all()]
        if within and not possible:
            assert found[2] == pytest.approx(min(within))


def test_allocations_and_times_round_trip() -> None:
    found = allocate(TIMED, "latency<=0.9x@openvino", objective=objective(), candidates=UNIT_BITS)
    assert Allocation.from_json(json.loads(json.dumps(found.to_json())), source="x") == found
    older = found.to_json()
    older["budget"] = {name: older["budget"][name] for name in ("text", "size", "bitops")}
    del older["latency"]
    assert Allocation.from_json(older, source="x").latency is None
    table = times(TOY.units)
    assert UnitTimes.from_json(json.loads(json.dumps(table.to_json())), source="x") == table
    first = TOY.units[0].name
    for change in ({"version": 2}, {"encoder": -1}, {"decoder": float("nan")}, {"seconds": {first: {"integer": 1}}}):
        with pytest.raises(ArtifactError, match="mixqsam benchmark --units"):
            UnitTimes.from_json(table.to_json() | change, source="x")
