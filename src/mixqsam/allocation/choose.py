"""Allocation: an analysis and a budget in, bits with a proof out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from mixqsam.allocation.budget import Budget, parse_keep, resolve_budget
from mixqsam.allocation.program import Objective, Utility, build_program, check_feasible, unit_states
from mixqsam.allocation.solve import solve
from mixqsam.errors import ArtifactError, shortened
from mixqsam.plan import CANDIDATE_BITS, Analysis, BitPlan, Costs


@dataclass(frozen=True)
class Allocation:
    """Bits for every unit, and what is known of them.

    Attributes:
        plan: the bits.
        budget: what they were to fit.
        objective: how bits were valued; None for a uniform plan.
        size: bytes of the whole model.
        bitops: BitOps per image.
        value: the objective's value.
        bound: no allocation has more.
        gap: their relative difference; 0 is proven optimal.
        seconds: of solving.
    """

    plan: BitPlan
    budget: Budget
    objective: Objective | None
    size: float
    bitops: float
    value: float = 0.0
    bound: float = 0.0
    gap: float = 0.0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {"format": "mixqsam-allocation", "version": 1, **asdict(self), "plan": self.plan.to_json()}

    @classmethod
    def from_json(cls, value: Any, *, source: str) -> "Allocation":
        """The inverse of `to_json`; `source` names the file in errors.

        Raises:
            ArtifactError: it is no allocation, of a newer version, or malformed.
        """
        if not isinstance(value, dict) or value.get("format") != "mixqsam-allocation":
            raise ArtifactError(f"{source} is not an allocation; make one with `mixqsam allocate`.")
        if value.get("version") != 1:
            raise ArtifactError(f"{source} has allocation version {value.get('version')}; this mixqsam reads 1.")
        try:
            objective = value["objective"]
            return cls(
                plan=BitPlan.from_json(value["plan"]),
                budget=_budget(value["budget"]),
                objective=None if objective is None else _objective(objective),
                **{name: float(value[name]) for name in ("size", "bitops", "value", "bound", "gap", "seconds")},
            )
        except (KeyError, OverflowError, StopIteration, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{source} is malformed ({shortened(repr(error))}); make it anew with `mixqsam allocate`."
            ) from error


def _budget(entry: Mapping[str, Any]) -> Budget:
    """A budget from a file, its kinds looked at."""
    limits = {name: None if entry[name] is None else float(entry[name]) for name in ("size", "bitops")}
    return Budget(str(entry["text"]), **limits)


def _objective(entry: Mapping[str, Any]) -> Objective:
    """An objective from a file, its kinds looked at."""
    utility = next(known for known in get_args(Utility) if known == entry["utility"])
    return Objective(str(entry["output"]), utility, str(entry["synergy"]), float(entry["coupling"]))


def check_request(
    costs: Costs,
    budget: str,
    *,
    candidates: Sequence[int] = CANDIDATE_BITS,
    tied: bool = True,
    keep: Sequence[str] = (),
) -> None:
    """Refuse what `allocate` would refuse, before anything has been measured.

    Raises:
        BudgetError: a text cannot be understood, or no choice fits.
    """
    fixed = parse_keep(keep, names=[unit.name for unit in costs.units])
    limits = resolve_budget(budget, costs, fixed=fixed)
    check_feasible(costs, limits, unit_states(costs, candidates=candidates, tied=tied, fixed=fixed))


def allocate(
    analysis: Analysis,
    budget: str,
    *,
    objective: Objective,
    candidates: Sequence[int] = CANDIDATE_BITS,
    tied: bool = True,
    keep: Sequence[str] = (),
    time_limit: float = 50.0,
) -> Allocation:
    """Choose the bits of all units under a budget (the paper's integer quadratic program).

    Args:
        analysis: what `analyze` measured.
        budget: see `mixqsam.allocation.budget.HELP`.
        objective: how bits are valued.
        candidates: bit-widths to choose from.
        tied: weight and activation of a unit share one bit-width, as in the paper.
        keep: fixed bits by pattern, `PATTERN=BITS`.
        time_limit: seconds for solving.

    Raises:
        BudgetError: a text cannot be understood, or no choice fits; the message names the smallest feasible budget.
    """
    fixed = parse_keep(keep, names=[unit.name for unit in analysis.units])
    limits = resolve_budget(budget, analysis.costs, fixed=fixed)
    program = build_program(analysis, limits, objective, candidates=candidates, tied=tied, fixed=fixed)
    solution = solve(program, time_limit=time_limit)
    plan = program.plan(solution.choice)
    return Allocation(
        plan=plan,
        budget=limits,
        objective=objective,
        size=analysis.costs.size(plan),
        bitops=float(analysis.costs.bitops(plan)),
        value=solution.objective,
        bound=solution.bound,
        gap=solution.gap,
        seconds=solution.seconds,
    )
