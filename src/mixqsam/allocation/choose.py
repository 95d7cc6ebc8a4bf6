"""Choose the bits of all units from an analysis and a budget, with a proof."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mixqsam.allocation.budget import Budget, Limits, parse_keep
from mixqsam.allocation.feasible import check_feasible, find_cheapest_plan
from mixqsam.allocation.program import Objective, Utility, build_program, unit_states
from mixqsam.allocation.solve import solve
from mixqsam.errors import ArtifactError, BudgetError, shortened
from mixqsam.measurements import Analysis
from mixqsam.plan import CANDIDATE_BITS, BitPlan, Costs, UnitBits


@dataclass(frozen=True)
class Allocation:
    """The bits of every unit, their costs and their proof.

    Attributes:
        plan: the bits.
        budget: the limits that they meet.
        objective: how bits were valued; None for a uniform plan.
        size: bytes of the whole model.
        bitops: BitOps per image.
        value: the objective's value.
        bound: an upper bound of the objective over all allocations.
        gap: relative difference of value and bound; 0 is proven optimal.
        seconds: solving time.
        latency: predicted seconds of an image with its prompts in the backend of the budget; None without one.
    """

    plan: BitPlan
    budget: Limits
    objective: Objective | None
    size: float
    bitops: float
    value: float = 0.0
    bound: float = 0.0
    gap: float = 0.0
    seconds: float = 0.0
    latency: float | None = None

    @property
    def kind(self) -> Literal["uniform", "mixed"]:
        """`uniform` where the budget gives all units the same bits, `mixed` where they were chosen."""
        return "uniform" if self.objective is None else "mixed"

    def to_json(self) -> dict[str, Any]:
        """The allocation as JSON values."""
        return {"format": "mixqsam-allocation", "version": 1, **asdict(self), "plan": self.plan.to_json()}

    @classmethod
    def from_json(cls, value: Any, *, source: str) -> "Allocation":
        """Read what `to_json` wrote; `source` names the file in errors.

        Raises:
            ArtifactError: it is not an allocation, has another version, or is malformed.
        """
        if not isinstance(value, dict) or value.get("format") != "mixqsam-allocation":
            raise ArtifactError(f"{source} is not an allocation; make one with `mixqsam allocate`.")
        if value.get("version") != 1:
            raise ArtifactError(f"{source} has allocation version {value.get('version')}; this mixqsam reads 1.")
        try:
            objective = value["objective"]
            return cls(
                plan=BitPlan.from_json(value["plan"]),
                budget=_parse_limits(value["budget"]),
                objective=None if objective is None else _parse_objective(objective),
                **{name: float(value[name]) for name in ("size", "bitops", "value", "bound", "gap", "seconds")},
                latency=_parse_optional(value.get("latency")),
            )
        except (KeyError, OverflowError, StopIteration, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{source} is malformed ({shortened(repr(error))}); make it again with `mixqsam allocate`."
            ) from error


def _parse_limits(entry: Mapping[str, Any]) -> Limits:
    """Read limits from a file and check their types."""
    numbers = {name: _parse_optional(entry[name]) for name in ("size", "bitops")}
    # Earlier files have no latency.
    latency, backend = _parse_optional(entry.get("latency")), str(entry.get("backend", ""))
    return Limits(str(entry["text"]), **numbers, latency=latency, backend=backend)


def _parse_optional(value: Any) -> float | None:
    return None if value is None else float(value)


def _parse_objective(entry: Mapping[str, Any]) -> Objective:
    """Read an objective from a file and check its types."""
    utility = next(name for name in get_args(Utility) if name == entry["utility"])
    return Objective(str(entry["output"]), utility, str(entry["synergy"]), float(entry["coupling"]))


def check_request(
    costs: Costs,
    budget: Budget,
    *,
    candidates: Sequence[int] = CANDIDATE_BITS,
    tied: bool = True,
    keep: Sequence[str] = (),
) -> None:
    """Raise what `allocate` would raise, before anything is measured.

    Raises:
        BudgetError: a rule of `keep` cannot be understood, or the budget is too small.
    """
    fixed = parse_keep(keep, names=[unit.name for unit in costs.units])
    if budget.uniform is not None:
        return
    limits = budget.limits(costs, fixed=fixed)
    check_feasible(costs, limits, unit_states(costs, candidates=candidates, tied=tied, fixed=fixed))


def find_size_span(
    costs: Costs, budget: Budget, *, candidates: Sequence[int], tied: bool, keep: Sequence[str]
) -> tuple[float, float]:
    """Find the bytes between which limits of the size make a difference.

    Returns:
        The size of the fewest bits, and that of the most bits or the budget's own limit, if that is less.
    """
    fixed = parse_keep(keep, names=[unit.name for unit in costs.units])
    states = unit_states(costs, candidates=candidates, tied=tied, fixed=fixed)
    most = max(candidates)
    largest = costs.size(BitPlan({**BitPlan.uniform(costs.units, UnitBits(most, most)).bits, **fixed}))
    least = find_cheapest_plan(costs, Limits("", largest, None), states)
    limit = budget.limits(costs, fixed=fixed).size
    return costs.size(least), largest if limit is None else min(largest, limit)


def allocate(
    analysis: Analysis,
    budget: Budget,
    *,
    objective: Objective,
    candidates: Sequence[int] = CANDIDATE_BITS,
    tied: bool = True,
    keep: Sequence[str] = (),
    time_limit: float = 50.0,
) -> Allocation:
    """Choose the bits of all units under a budget (the paper's integer quadratic program).

    With a uniform budget all units get its bits, except those that `keep` fixes.

    Args:
        analysis: result of `analyze`.
        budget: limits of size, BitOps and latency.
        objective: how bits are valued.
        candidates: bit-widths to choose from.
        tied: weight and activation of a unit share one bit-width, as in the paper.
        keep: fixed bits by pattern, `PATTERN=BITS`.
        time_limit: maximum solving time in seconds.

    Raises:
        BudgetError: a rule of `keep` cannot be understood, or the budget is too small; the message names the smallest
            feasible budget. Or the budget has a target of quality, for which models have to be measured.
    """
    if budget.quality is not None:
        raise BudgetError(
            f"The budget {budget} needs a model and images to measure the quality; `mixqsam quantize` takes it."
        )
    fixed = parse_keep(keep, names=[unit.name for unit in analysis.units])
    limits = budget.limits(analysis.costs, fixed=fixed)
    if budget.uniform is not None:
        plan = budget.uniform_plan(analysis.costs, fixed=fixed)
        return Allocation(plan, limits, None, analysis.costs.size(plan), float(analysis.costs.bitops(plan)))
    costs = analysis.costs
    program = build_program(analysis, limits, objective, candidates=candidates, tied=tied, fixed=fixed)
    solution = solve(program, time_limit=time_limit)
    plan = program.plan(solution.choice)
    return Allocation(
        plan=plan,
        budget=limits,
        objective=objective,
        size=costs.size(plan),
        bitops=float(costs.bitops(plan)),
        latency=None if limits.latency is None else costs.latency(plan),
        value=solution.objective,
        bound=solution.bound,
        gap=solution.gap,
        seconds=solution.seconds,
    )
