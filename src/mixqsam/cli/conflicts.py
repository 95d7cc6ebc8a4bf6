"""Refuse options that another option on the same command line makes meaningless."""

from collections.abc import Sequence
from typing import Any

from mixqsam.errors import BudgetError, InputError
from mixqsam.options.fields import Entry
from mixqsam.options.names import DEFAULT_RECIPE, RECONSTRUCTING_RECIPES

# Options of the choice of bits, without effect where all bits are given.
CHOICE = (
    "preset",
    "candidates",
    "tied",
    "utility",
    "output_distribution",
    "synergy",
    "synergy_weight",
    "time_limit",
)
# Options of a reconstruction, without effect for recipes that round to nearest.
RECONSTRUCTION = ("iterations", "batch", "weight_rate", "scale_rate", "regulariser", "warmup")


def check_conflicts(entries: Sequence[Entry], values: dict[str, Any], *, given: set[str]) -> None:
    """Refuse options of the command line that have no effect together; settings of a file yield to the command line.

    Args:
        entries: options of the command.
        values: name → value of all options. A stored allocation from a file is removed if the command line names
            a budget or bits.
        given: names of the options on the command line.

    Raises:
        BudgetError, InputError: two options contradict each other; the message names both.
    """
    flags = {entry.name: _name_option(entry, values.get(entry.name)) for entry in entries}
    if "allocation" in values and "allocation" not in given and given & {"budget", "keep", *CHOICE}:
        del values["allocation"]
    if "allocation" in values:
        for name in ("budget", "keep", *CHOICE):
            if name in given:
                raise BudgetError(
                    f"--allocation says the bits of all units, so {flags[name]} has no effect; remove one."
                )
        return
    budgets = values.get("budgets") or ([values["budget"]] if "budget" in values else [])
    if budgets and all(budget.uniform is not None for budget in budgets):
        for name in (*CHOICE, "uniform"):
            if name in given:
                raise BudgetError(
                    f"The budget {budgets[0]} says the bits of all units, so {flags[name]} has no effect; remove "
                    "it, or give a budget such as W4A4, within which bits are chosen."
                )
    _check_reconstruction(flags, values, given)


def _name_option(entry: Entry, value: Any) -> str:
    """Name an option as it was given; a switch that was turned off has another name."""
    return entry.flags[0].split("/")[-1] if value is False else entry.label


def _check_reconstruction(flags: dict[str, str], values: dict[str, Any], given: set[str]) -> None:
    """Refuse options of a reconstruction for a recipe that rounds to nearest."""
    recipe = values.get("recipe", DEFAULT_RECIPE if "recipe" in flags else None)
    if not isinstance(recipe, str) or recipe in RECONSTRUCTING_RECIPES:
        return
    for name in RECONSTRUCTION:
        if name in given:
            raise InputError(
                f"The recipe {recipe} does not reconstruct, so {flags[name]} has no effect; remove it, or choose "
                f"{', '.join(RECONSTRUCTING_RECIPES)}."
            )
