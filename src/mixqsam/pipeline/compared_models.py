"""The models that a comparison makes: recipes × budgets × (uniform, mixed)."""

from collections.abc import Sequence
from dataclasses import dataclass

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.uniform import nearest_uniform
from mixqsam.errors import BudgetError, InputError
from mixqsam.measurements import Analysis
from mixqsam.pipeline.options import CompareRequest, Options
from mixqsam.pipeline.presets import apply_preset
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import run_allocation
from mixqsam.quantization.custom import CustomRecipe
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.recipes import find_recipe
from mixqsam.reporting.comparison import Mode


@dataclass(frozen=True)
class ComparedModel:
    """One quantized model of a comparison.

    Attributes:
        choice, recipe: the recipe as the user names it, and itself.
        budget: limits of size and BitOps.
        mode: uniform or mixed bits.
        allocation: the bits.
    """

    choice: str | CustomRecipe
    recipe: Recipe
    budget: Budget
    mode: Mode
    allocation: Allocation


def check_request(request: CompareRequest) -> None:
    """Check that a request names models that `compare` can make.

    Raises:
        InputError: there is nothing to compare.
        BudgetError: a budget names a quality or a latency.
    """
    if not request.recipes or not request.budgets or not request.modes:
        raise InputError("There is nothing to compare: name a recipe, a budget, and uniform or mixed.")
    if all(budget.uniform is not None for budget in request.budgets) and "uniform" not in request.modes:
        raise InputError("Uniform budgets give uniform bits only: add the mode uniform, or a budget such as W4A4.")
    for budget in request.budgets:
        _check_measured(budget)


def _check_measured(budget: Budget) -> None:
    """Refuse a budget for which models have to be measured one after the other.

    Raises:
        BudgetError: it names a quality or a latency.
    """
    if budget.quality is not None:
        raise BudgetError(
            f"The budget {budget} asks for a quality, which `compare` measures: give sizes, e.g. W6A6; "
            "`mixqsam quantize` searches the smallest model of a quality."
        )
    if budget.latency is not None:
        raise BudgetError(
            f"The budget {budget} limits a latency, which `compare` does not measure: give sizes, e.g. W6A6; "
            "`mixqsam quantize` takes it."
        )


def find_mixed_options(request: CompareRequest) -> Options:
    """The options with their preset, if there is one; its candidates are those of the first budget with a choice."""
    budget = next((budget for budget in request.budgets if budget.uniform is None), request.budgets[0])
    return apply_preset(request.options, budget)


def plan_models(
    choice: str | CustomRecipe, analysis: Analysis, request: CompareRequest, session: Session
) -> Sequence[ComparedModel]:
    """Choose the bits of all models of one recipe.

    Raises:
        BudgetError: no choice of bits fits a budget.
    """
    recipe = find_recipe(choice)
    models = []
    for budget in request.budgets:
        options = apply_preset(request.options, budget).allocation
        chosen = run_allocation(analysis, budget, options=options, session=session)
        # A uniform budget leaves no choice: the model is the uniform one.
        uniform = nearest_uniform(analysis, chosen, keep=request.options.allocation.keep)
        by_mode: dict[Mode, Allocation | None] = {"uniform": uniform, "mixed": chosen}
        for mode in request.modes:
            if budget.uniform is not None and mode == "mixed":
                continue
            allocation = by_mode[mode]
            if allocation is None:
                session.progress.note(f"No uniform model fits {budget}; its row is left out.")
            else:
                models.append(ComparedModel(choice, recipe, budget, mode, allocation))
    return models
