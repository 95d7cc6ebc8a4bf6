from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mixqsam.allocation.solve as solve_module
from mixqsam.allocation.budget import Budget, Limits, parse_bits, parse_keep
from mixqsam.allocation.cheapest import Choice
from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.choose import allocate as allocate_within
from mixqsam.allocation.labels import search
from mixqsam.allocation.lagrange import relax, survivors
from mixqsam.allocation.linear import LinearProgram
from mixqsam.allocation.program import UTILITIES, Objective, Program, build_program, predict_divergence
from mixqsam.allocation.solve import solve
from mixqsam.errors import ArtifactError, BudgetError
from mixqsam.measurements import Analysis
from mixqsam.plan import CANDIDATE_BITS, FLOAT, Costs, Unit, UnitBits, Vector
from mixqsam.times import UnitTimes
from tests.oracles import best_choice

BITS = (2, 3, 4, 6, 8)


def analysis(count: int, *, seed: int = 0) -> Analysis:
    rng = np.random.default_rng(seed)
    kinds = ["product" if i % 3 == 1 else "linear" for i in range(count)]
    units = tuple(
        Unit(
            f"net.layers.{i}.{'qk' if kind == 'product' else 'lin'}",
            kind,  # type: ignore[arg-type]
            "decoder" if i > count // 2 else "encoder",
            0 if kind == "product" else int(rng.integers(100, 5000)),
            0 if kind == "product" else 8,
            int(rng.integers(1000, 90000)),
            "scores" if kind == "product" else "projection",
            str(i // 3),
        )
        for i, kind in enumerate(kinds)
    )
    omega = rng.lognormal(0, 1.5, count)
    omega /= omega.sum()
    noise = 4.0 ** -np.array(BITS)
    sensitivity = np.stack([omega[:, None] * rng.lognormal(0, 1, (count, 1)) * noise for _ in range(2)], axis=1)
    return Analysis(
        "toy",
        1,
        Costs(units, 700, 500),
        {"bernoulli": omega},
        {f"{e}/bernoulli": rng.uniform(1, 9, count - 1) for e in ("proximity", "interaction")},
        {"bernoulli": sensitivity},
        BITS,
        {"bernoulli": sensitivity[..., :1] * 4.0 ** (BITS[0] - np.array(CANDIDATE_BITS))},
    )


def times(units: Sequence[Unit], *, seed: int = 0, backend: str = "openvino") -> UnitTimes:
    """Random times; some units are faster with floats than with integers, as in runtimes with fused attentions."""
    rng = np.random.default_rng(seed)
    seconds = {}
    for unit in units:
        integer, half, slack = rng.exponential(0.01), rng.exponential(0.02), rng.exponential(0.01)
        found = {"integer": integer, "narrow": integer + slack / 4, "mixed": half + slack / 2}
        found |= {"half": half, "float": half + slack}
        seconds[unit.name] = {name: value - min(integer, half) for name, value in found.items()}
    return UnitTimes(backend, 1, {"cpu": "toy"}, 0.05, 0.01, seconds)  # type: ignore[arg-type]


def limits_of(text: str, costs: Costs) -> Limits:
    return Budget.parse(text).limits(costs)


def allocate(toy: Analysis, text: str, **options: Any) -> Allocation:
    return allocate_within(toy, Budget.parse(text), **options)


def objective(utility: str = "measured", *, coupling: float = 0.3) -> Objective:
    return Objective("bernoulli", utility, "proximity", coupling)  # type: ignore[arg-type]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Small random programs, tied or free, of which some have a unit with fixed bits."""
    tied = draw(st.booleans())
    toy = analysis(draw(st.integers(2, 5 if tied else 3)), seed=draw(st.integers(0, 10**6)))
    toy = toy.with_times(times(toy.units, seed=draw(st.integers(0, 10**6))))
    choices = [(2, 4, 8), (2, 3, 5, 8), (2, 4, 16)] if tied else [(2, 4), (3, 8), (2, 4, 8), (2, 16)]
    candidates = draw(st.sampled_from(choices))
    text = draw(st.sampled_from(["W3A3", "W4A4", "W6A6", "W4A16", "size=0.16x", "bitops=0.02x", "W8A8"]))
    text += draw(st.sampled_from(["", "", ",latency<=0.95x@openvino", ",latency<=0.11s@openvino"]))
    fixed = {toy.units[0].name: UnitBits(2, 2)} if draw(st.booleans()) else {}
    goal = objective(draw(st.sampled_from(UTILITIES)), coupling=draw(st.sampled_from([0.0, 0.1, 1.0, 5.0])))
    budget = limits_of(text, toy.costs)
    try:
        return build_program(toy, budget, goal, candidates=candidates, tied=tied, fixed=fixed)
    except BudgetError:
        return build_program(toy, limits_of("W8A8", toy.costs), goal, candidates=candidates, tied=tied, fixed=fixed)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.sampled_from([(), (1,), (1, 5), (50, 200)]))
def test_solution_equals_brute_force_and_its_bound_is_true(program: Program, widths: tuple[int, ...]) -> None:
    best = best_choice(program)
    assert best is not None
    # Without a search, or with few labels, branch and cut has more to do.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solve_module, "_WIDTHS", widths)
        patch.setattr(solve_module, "_WIDTHS_UNCOUPLED", widths)
        solution = solve(program)
    span = sum(float(np.ptp(u)) for u in program.utility)
    assert program.is_feasible(solution.choice)
    assert solution.objective == pytest.approx(program.value(solution.choice))
    assert solution.objective == pytest.approx(best, abs=1e-7 * span)
    assert solution.bound >= best - 1e-7 * span
    assert solution.is_optimal


def test_a_start_that_highs_returns_as_the_optimum_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = np.array([[2, 2], [3, 3], [5, 5], [8, 8]])
    utility = [[-0.207968], [-0.0104648, -0.0026162, -0.0001635, -0.0000026], [-0.0031482, -0.0007871, -0.0000492, 0.0]]
    utility += [[-0.0012774, -0.0003193, -0.00002, 0.0], [-0.1004518, -0.0251129, -0.0015696, -0.0000245]]
    sizes = [[0.19975], *([[0.00228] * 4]), [0.23809, 0.35382, 0.58529, 0.93249], [0.15635, 0.23121, 0.38094, 0.60554]]
    sizes += [[0.00228] * 4]
    work = [[0.1599], [0.00664, 0.01494, 0.04149, 0.10622], [0.09405, 0.21161, 0.58781, 1.50478]]
    work += [[0.12566, 0.28274, 0.7854, 2.01062], [0.05819, 0.13093, 0.36369, 0.93104]]
    program = Program(
        ("a", "b", "c", "d", "e"),
        (bits[:1], bits, bits, bits, bits),
        tuple(np.array(u) for u in utility),
        tuple(np.stack(pair, axis=1) for pair in zip(sizes, work, strict=True)),
        np.array([0.88592, 1.0]),
        np.array([0.00012599, 0.00046149, 0.00026882, 0.00068122]),
    )
    monkeypatch.setattr(solve_module, "_WIDTHS", ())
    solution = solve(program)
    assert solution.is_optimal
    assert solution.objective == pytest.approx(best_choice(program))


def test_a_solution_that_rounds_over_the_budget_is_solved_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = analysis(20)
    limits = limits_of("W4A4", toy.costs)
    program = build_program(toy, limits, objective(coupling=0.02), candidates=range(2, 9), tied=True, fixed={})
    plain = solve(program)
    monkeypatch.setattr(solve_module, "_WIDTHS", ())
    inner, calls = solve_module._solve_linear, []

    def over_budget_at_first(linear: LinearProgram, warm: Choice, *, time_limit: float) -> tuple[Vector, float]:
        values, bound = inner(linear, warm, time_limit=time_limit)
        calls.append(bound)
        if len(calls) == 1:
            values = np.zeros_like(values)
            values[np.append(linear.starts[1:], linear.binaries) - 1] = 1.0
        return values, bound

    monkeypatch.setattr(solve_module, "_solve_linear", over_budget_at_first)
    solution = solve(program)
    assert len(calls) == 2
    assert solution.objective == pytest.approx(plain.objective, rel=1e-6)
    assert solution.bound >= solution.objective


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_relaxation_bounds_the_optimum_and_spares_it(program: Program) -> None:
    best = best_choice(program)
    assert best is not None
    relaxed = relax(program)
    span = sum(float(np.ptp(u)) for u in program.utility)
    assert program.is_feasible(relaxed.choice)
    assert program.value(relaxed.choice) <= best + 1e-9 * span
    assert relaxed.bound >= best - 1e-9 * span
    spared = best_choice(program.restrict(survivors(program, relaxed)))
    assert spared == pytest.approx(best, abs=1e-8 * span)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.integers(1, 30))
def test_a_search_of_any_width_finds_a_feasible_choice_and_a_true_bound(program: Program, width: int) -> None:
    best = best_choice(program)
    assert best is not None
    relaxed, span = relax(program), sum(float(np.ptp(u)) for u in program.utility)
    found = search(program, relaxed, width=width, tolerance=1e-12 * span)
    assert program.is_feasible(found.choice)
    assert program.value(relaxed.choice) <= program.value(found.choice) <= best + 1e-9 * span
    assert best - 1e-9 * span <= found.bound <= relaxed.bound
    if found.crowd <= width:
        assert program.value(found.choice) == pytest.approx(best, abs=1e-9 * span)
        assert found.bound == pytest.approx(best, abs=1e-9 * span)


def test_a_long_chain_with_a_strong_coupling_is_proven_without_branch_and_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the search did not prove the choice")

    toy = analysis(120)
    goal, limits = objective(coupling=1.0), limits_of("W6A6", toy.costs)
    program = build_program(toy, limits, goal, candidates=range(2, 9), tied=False, fixed={})
    monkeypatch.setattr(solve_module, "_branch_and_cut", refuse)
    solution = solve(program)
    assert solution.is_optimal
    assert relax(program).bound > solution.objective


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "free"])
@pytest.mark.parametrize("budget", ["W3A3", "W4A4", "W6A6"])
def test_within_budget_proven_and_no_worse_than_uniform(utility: str, tied: bool, budget: str) -> None:
    toy = analysis(20)
    found = allocate(toy, budget, objective=objective(utility), tied=tied)
    assert found.budget.size is not None
    assert found.budget.bitops is not None
    assert found.size <= found.budget.size
    assert found.bitops <= found.budget.bitops
    assert found.gap == 0
    assert found.size == toy.costs.size(found.plan)
    b = int(budget[1])
    fixed = {u.name: UnitBits(b, b) for u in toy.units}
    limits = limits_of(budget, toy.costs)
    program = build_program(toy, limits, objective(utility), candidates=range(2, 9), tied=tied, fixed={})
    uniform = build_program(toy, limits, objective(utility), candidates=range(2, 9), tied=tied, fixed=fixed)
    at = np.array([int(np.flatnonzero((s == b).all(axis=1))[0]) for s in program.states])
    assert uniform.is_feasible(np.zeros(20, dtype=np.int64))
    assert found.value >= program.value(at) - 1e-12


def test_more_budget_is_never_worse() -> None:
    toy = analysis(20)
    values = [allocate(toy, f"size=0.{s}x", objective=objective()).value for s in (15, 18, 20, 25, 30)]
    assert values == sorted(values)


def test_the_predicted_divergence_is_the_sum_over_operands_and_none_without_a_measurement() -> None:
    toy = analysis(7)
    found = allocate(toy, "W4A4", objective=objective("fisher", coupling=0.3))
    fisher, column = toy.fisher["bernoulli"], CANDIDATE_BITS.index
    chosen = [found.plan.bits[unit.name] for unit in toy.units]
    expected = sum(fisher[i, 0, column(b.weight)] + fisher[i, 1, column(b.activation)] for i, b in enumerate(chosen))
    assert predict_divergence(toy, found.plan, objective("fisher")) == pytest.approx(expected)
    assert predict_divergence(toy, toy.costs.float_plan, objective("fisher")) == 0
    assert predict_divergence(toy, found.plan, objective("linear")) is None


def test_a_strong_coupling_makes_neighbours_alike_and_none_lets_them_differ() -> None:
    toy = analysis(20)

    def roughness(coupling: float) -> float:
        plan = allocate(toy, "W4A4", objective=objective(coupling=coupling)).plan
        return float(np.abs(np.diff([b.weight for b in plan.bits.values()])).sum())

    assert roughness(0) > roughness(0.02) > roughness(100)


def test_keep_fixes_bits_and_floats_cost_what_they_cost() -> None:
    toy = analysis(9)
    found = allocate(toy, "W6A6", objective=objective(), keep=["layers.0.*=8", "*.qk=float", "layers.3.lin=W2A5"])
    bits = found.plan.bits
    assert bits["net.layers.0.lin"] == UnitBits(8, 8)
    assert bits["net.layers.3.lin"] == UnitBits(2, 5)
    assert all(b == FLOAT for name, b in bits.items() if name.endswith("qk"))
    assert found.budget.bitops is not None
    assert found.bitops <= found.budget.bitops


@pytest.mark.parametrize(
    ("text", "size", "bitops"),
    [
        ("12.5MB", 12.5e6, None),
        ("size=3kB", 3000.0, None),
        ("2MiB", 2.0 * 2**20, None),
        ("bitops=3.5T", None, 3.5e12),
        ("bitops=2e9", None, 2e9),
        ("size=1MB, bitops=2G", 1e6, 2e9),
        ("2MB,1MB", 1e6, None),
    ],
)
def test_budgets_in_numbers(text: str, size: float | None, bitops: float | None) -> None:
    budget = limits_of(text, analysis(3).costs)
    assert (budget.size, budget.bitops) == (size, bitops)


def test_budgets_in_shares_and_bits() -> None:
    costs = analysis(6).costs
    full = costs.size(costs.float_plan)
    assert limits_of("0.25x", costs).size == pytest.approx(full / 4)
    assert limits_of("size=25%", costs).size == pytest.approx(full / 4)
    assert limits_of("bitops=0.5x", costs).bitops == pytest.approx(costs.bitops(costs.float_plan) / 2)
    w4a6 = limits_of("w4a6", costs)
    assert w4a6.bitops == sum(costs.multiply_adds(u) * (36 if u.kind == "product" else 24) for u in costs.units)


@pytest.mark.parametrize(
    "text", ["", "W9A4", "W1A1", "small", "size=", "bitops=-3", "0MB", "speed=3", "1e999MB", "4GB/s"]
)
def test_budgets_that_mean_nothing(text: str) -> None:
    with pytest.raises(BudgetError):
        limits_of(text, analysis(3).costs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("4", "did you mean W4A4 (4 bits everywhere) or 4MB?"),
        ("50", "did you mean 50MB?"),
        ("12500000", "did you mean 12.5MB?"),
        ("0.2", "did you mean 0.2x"),
        ("12,5MB", "did you mean 12MB?"),
        ("size=8", "did you mean W8A8"),
        ("bitops=3", "did you mean bitops=3G or bitops=3T?"),
        ("W4", "did you mean W4A4?"),
        ("w4", "did you mean W4A4?"),
        ("4bit", "did you mean W4A4?"),
        ("4-bits", "did you mean W4A4?"),
        ("int8", "did you mean W8A8?"),
        ("int16", "did you mean W16A16?"),
        ("int12", "bit-widths go from 2 to 8, or are 16"),
        ("W4A12", "bit-widths go from 2 to 8, or are 16"),
        ("uniform:W4", "did you mean uniform:W4A4?"),
        ("uniform:", "e.g. uniform:W4A4"),
        ("uniform:9", "bit-widths go from 2 to 8"),
    ],
)
def test_a_budget_that_may_mean_two_things_is_answered_with_the_likely_one(text: str, words: str) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget.parse(text)
    assert words in str(caught.value)


def test_an_error_quotes_little_of_a_long_budget() -> None:
    for text in ("x" * 10**6, "9" * 10**6, "w" + "4" * 10**6 + "a4", "uniform:" + "4" * 10**6):
        with pytest.raises(BudgetError) as caught:
            Budget.parse(text)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("text", "same"),
    [("w4a4", "W4A4"), (" W4 A4 ", "W4A4"), ("W4/A4", "W4A4"), ("50 mb", "50MB"), ("20 %", "0.2x"), (".2x", "0.2x")],
)
def test_spellings_of_one_budget(text: str, same: str) -> None:
    assert Budget.parse(text).terms == Budget.parse(same).terms
    assert Budget.parse(Budget.parse(text)) == Budget.parse(text)


def test_a_uniform_budget_is_a_kind_of_budget_and_honours_fixed_units() -> None:
    toy = analysis(6)
    names = [unit.name for unit in toy.units]
    found = allocate(toy, "uniform:W4A4", objective=objective(), keep=["layers.0.*=8", "layers.3.lin=float"])
    assert found.objective is None
    assert found.budget.text == "W4A4"
    expected = dict.fromkeys(names, UnitBits(4, 4)) | {names[0]: UnitBits(8, 8), names[3]: FLOAT}
    assert found.plan.bits == expected
    assert (found.size, found.bitops) == (toy.costs.size(found.plan), toy.costs.bitops(found.plan))
    assert (found.budget.size, found.budget.bitops) == (found.size, found.bitops)
    assert allocate(toy, "Uniform:w4a4", objective=objective()).size < found.size
    with pytest.raises(BudgetError, match="no unit matches"):
        allocate(toy, "uniform:W4A4", objective=objective(), keep=["nothing=8"])
    with pytest.raises(BudgetError, match="is not uniform"):
        Budget.parse("W4A4").uniform_plan(toy.costs)


@pytest.mark.parametrize("rule", ["neck", "nothing.*=8", "*=9", "*=W4"])
def test_keep_rules_that_mean_nothing(rule: str) -> None:
    with pytest.raises(BudgetError, match="--keep|bit-width"):
        parse_keep([rule], names=["net.layers.0.lin"])


def test_bits_in_words() -> None:
    assert parse_bits("W4A6") == UnitBits(4, 6)
    assert parse_bits("8") == UnitBits(8, 8)
    assert parse_bits("float") == FLOAT
    assert parse_bits("16") == UnitBits(16, 16)
    assert parse_bits("W4A16") == UnitBits(4, 16)


def test_an_impossible_budget_names_the_smallest_feasible_one() -> None:
    toy = analysis(9)
    with pytest.raises(BudgetError, match="smallest feasible budget") as caught:
        allocate(toy, "size=1kB", objective=objective())
    smallest = str(caught.value).split("budget is ")[1].rstrip(".")
    assert "% of the float model's size" in str(caught.value)
    found = allocate(toy, smallest, objective=objective())
    assert found.size <= float(smallest.removesuffix("MB")) * 1e6
    assert {found.plan.bits[unit.name].weight for unit in toy.units if unit.parameters > 1000} == {2}
    with pytest.raises(BudgetError, match="smallest feasible budget"):
        allocate(toy, "W4A4", objective=objective(), keep=["*=8"])


def test_of_two_limits_the_error_names_the_one_that_is_too_small() -> None:
    toy = analysis(9)
    with pytest.raises(BudgetError, match="it allows 0.001 MB") as caught:
        allocate(toy, "size=1kB,bitops=1000T", objective=objective(), candidates=(2, 4, 16), tied=False)
    said = str(caught.value)
    assert "GBitOps" not in said
    assert "bitops=1000000G" in said
    allocate(toy, said.split("budget is ")[1].rstrip("."), objective=objective(), candidates=(2, 4, 16), tied=False)


def test_measured_needs_a_measurement() -> None:
    with pytest.raises(BudgetError, match="holds no measured sensitivity"):
        allocate(replace(analysis(4), sensitivity={}), "W4A4", objective=objective())


def test_allocation_round_trips() -> None:
    found = allocate(analysis(5), "W4A4", objective=objective())
    assert Allocation.from_json(found.to_json(), source="x") == found
    for change in ({"version": 9}, {"plan": {"a": {"weight": 1, "activation": 2}}}, {"budget": 3}):
        with pytest.raises(ArtifactError):
            Allocation.from_json(found.to_json() | change, source="x")


def test_prompts_per_image_shift_bitops_to_the_decoder() -> None:
    toy = analysis(9)
    many = toy.with_prompts(50)
    assert many.costs.bitops(many.costs.float_plan) > toy.costs.bitops(toy.costs.float_plan)
    most = limits_of("W4A4", many.costs).bitops
    assert most is not None
    assert allocate(many, "W4A4", objective=objective()).bitops <= most
