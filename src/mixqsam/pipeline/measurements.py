"""What a choice of bits needs to be measured, and whether the options measure it."""

from collections.abc import Sequence
from dataclasses import replace

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import check_request
from mixqsam.errors import BudgetError
from mixqsam.pipeline.options import AnalysisOptions, Options
from mixqsam.sam.load import Sam
from mixqsam.times import UnitTimes


def measure_nothing(options: Options) -> AnalysisOptions:
    """The options of an analysis that measures no unit."""
    return replace(options.analysis, importance=False, pairs=False, sensitivity_bits=(), fisher=())


def select_measurements(options: Options, budgets: Sequence[Budget]) -> AnalysisOptions:
    """Select the measurements that the allocation uses, because measuring takes long; uniform budgets use none."""
    analysis, allocation = options.analysis, options.allocation
    if all(budget.uniform is not None for budget in budgets):
        return measure_nothing(options)
    coupled, utility = allocation.synergy_weight > 0, allocation.utility
    output = allocation.output_distribution
    return replace(
        analysis,
        importance=coupled or utility in {"linear", "exponential"},
        pairs=analysis.pairs and coupled and allocation.synergy == "interaction",
        sensitivity_bits=analysis.sensitivity_bits if utility == "measured" else (),
        fisher=(output,) if utility == "fisher" else (),
    )


def check_budget(sam: Sam, budget: Budget, options: Options, *, times: UnitTimes | None = None) -> None:
    """Check budget and options before the long work.

    Args:
        sam: the float model.
        budget: limits and a quality.
        options: options of the job.
        times: times of the units, where the budget limits the latency.

    Raises:
        BudgetError: the budget cannot be met, or the options contradict each other.
    """
    allocation = options.allocation
    costs = replace(sam.costs(prompts_per_image=allocation.prompts_per_image or 1), times=times)
    check_request(costs, budget, candidates=allocation.choices, tied=allocation.tied, keep=allocation.keep)
    if budget.uniform is None:
        _check_measurements(options)


def _check_measurements(options: Options) -> None:
    """Check that the options measure the quantities of the allocation."""
    analysis, allocation = options.analysis, options.allocation
    utility, output = allocation.utility, allocation.output_distribution
    if utility == "measured" and not analysis.sensitivity_bits:
        raise BudgetError("--utility measured needs --sensitivity-bits, e.g. 2,4,8.")
    if utility == "fisher" and output not in analysis.fisher:
        raise BudgetError(f"--utility fisher needs --fisher {output}.")
    if not analysis.importance and (utility in {"linear", "exponential"} or allocation.synergy_weight > 0):
        option = "--synergy-weight" if utility in {"measured", "fisher"} else f"--utility {utility}"
        raise BudgetError(f"{option} needs the importance; remove --no-importance.")
