"""Whether a job also makes the uniform model that its result is compared with."""

from collections.abc import Sequence

from mixqsam.plan import Unit
from mixqsam.progress import Progress
from mixqsam.quantization.recipe import Recipe

# Compensation of larger models takes minutes: MobileSAM has 10 million weights, SAM-B 89 million.
_MOST_WEIGHTS = 20_000_000


def makes_uniform(units: Sequence[Unit], *, recipe: Recipe, wanted: bool | None) -> bool:
    """Decide whether the uniform model is made: as the user wants it, else where making it is quick.

    Rounding to nearest is always quick, a compensation is quick for small models, and a reconstruction never is. The
    machine has no influence.

    Args:
        units: of the float model.
        recipe: how the model is quantized.
        wanted: what the user wants; None for no wish.
    """
    if wanted is not None:
        return wanted
    if recipe.compensation is None:
        return recipe.method is None
    return _count_weights(units) <= _MOST_WEIGHTS


def note_missing_uniform(units: Sequence[Unit], *, recipe: Recipe, wanted: bool | None, progress: Progress) -> None:
    """Say that the uniform model is not made, and how to get it, unless the user wants it so."""
    if wanted is not None or makes_uniform(units, recipe=recipe, wanted=wanted):
        return
    count = f"{_count_weights(units) / 1e6:.0f} million weights"
    reason = f"it has {count}" if recipe.compensation is not None else f"the recipe {recipe.name} learns it"
    progress.note(
        f"The uniform model is not made for the comparison: {reason}, which takes minutes or more. "
        "--uniform makes it, too."
    )


def _count_weights(units: Sequence[Unit]) -> int:
    return sum(unit.parameters for unit in units)
