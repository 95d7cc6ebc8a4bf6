"""From a float model, a bit plan and a recipe to a quantized model."""

from collections.abc import Sequence
from dataclasses import dataclass

from mixqsam.calibrate import cached_ranges
from mixqsam.data.samples import Sample
from mixqsam.errors import InputError, MixqsamError
from mixqsam.files import Cache
from mixqsam.plan import BitPlan
from mixqsam.progress import Progress
from mixqsam.quantization.compensation.whole import compensate
from mixqsam.quantization.nearest import round_to_nearest
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.reconstruction.fit import Log
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.quantization.reconstruction.whole import reconstruct
from mixqsam.quantization.setting import Activations, Setting, observed
from mixqsam.sam.load import Sam
from mixqsam.weight_grids import GridLibrary


@dataclass(frozen=True)
class Quantized:
    """A quantized model.

    Attributes:
        sam: the model; it has passed the honesty checks.
        logs: how each piece's reconstruction went; empty for recipes that round to nearest.
    """

    sam: Sam
    logs: Sequence[Log]


def rewrite(
    sam: Sam, plan: BitPlan, samples: Sequence[Sample], *, recipe: Recipe, cache: Cache, progress: Progress
) -> Sam:
    """Rewrite a float model as a recipe does it first; its outputs stay as they were.

    Args:
        sam: the float model; it is not changed.
        plan: the bits that it shall have.
        samples: calibration images with prompts.
        recipe: whose rewrite.
        cache: keeps what the rewrite measures.
        progress: receives steps.
    """
    return sam if recipe.rewrite is None else recipe.rewrite(sam, plan, samples, cache, progress)


def check_recipe(recipe: Recipe, *, images: int) -> None:
    """Refuse a recipe that so few calibration images cannot serve.

    Raises:
        InputError: the message says how many are needed.
    """
    if images < recipe.least_images:
        raise InputError(
            f"The recipe {recipe.name} needs at least {recipe.least_images} calibration images, there are {images}; "
            "add images, raise --count, or choose a recipe that only rounds to nearest (omse)."
        )


def quantize(
    sam: Sam,
    plan: BitPlan,
    samples: Sequence[Sample],
    *,
    recipe: Recipe,
    cache: Cache,
    progress: Progress,
    grids: GridLibrary | None = None,
    options: ReconstructionOptions | None = None,
) -> Quantized:
    """Quantize a float model; it is not changed, and tensors that stay float are shared with the result.

    Args:
        sam: the float model.
        plan: bits of every unit.
        samples: calibration images with prompts.
        recipe: how.
        cache: keeps calibrations and finished pieces of reconstructions.
        progress: receives steps.
        grids: weights' grids that are known already.
        options: how long to reconstruct.

    Raises:
        MixqsamError: the plan is not one for this model, or the recipe does not fit one of its units.
        HonestyError: a module of the result is not what its bits claim.
    """
    check_recipe(recipe, images=len(samples))
    _check_plan(sam, plan)
    setting, activations = _prepare(
        sam, plan, samples, recipe=recipe, cache=cache, progress=progress, grids=grids or GridLibrary()
    )
    if recipe.compensation is not None:
        found, logs = compensate(setting, activations, name=recipe.key, method=recipe.compensation)
        return Quantized(found, tuple(logs))
    if recipe.method is None:
        return Quantized(round_to_nearest(setting, activations), ())
    chosen = options or ReconstructionOptions()
    found, logs = reconstruct(setting, activations, name=recipe.key, method=recipe.method, options=chosen)
    return Quantized(found, tuple(logs))


def _prepare(
    sam: Sam,
    plan: BitPlan,
    samples: Sequence[Sample],
    *,
    recipe: Recipe,
    cache: Cache,
    progress: Progress,
    grids: GridLibrary,
) -> tuple[Setting, Activations]:
    """All that comes before rounding: the rewritten model, its ranges, and the quantizers of activations."""
    rewritten = rewrite(sam, plan, samples, recipe=recipe, cache=cache, progress=progress)
    ranges = cached_ranges(rewritten, samples, observer=recipe.observer, cache=cache, progress=progress)
    weights = grids.of(rewritten, observer=recipe.weight_observer)
    setting = Setting(rewritten, sam.costs().units, plan, samples, ranges, weights, cache, progress)
    activations: Activations = observed(setting)
    for step in recipe.steps:
        activations = step.choose(setting, activations)
    return setting, {key: one.to(sam.device) for key, one in activations.items()}


def _check_plan(sam: Sam, plan: BitPlan) -> None:
    names = {unit.name for unit in sam.costs().units}
    if set(plan.bits) != names:
        odd = min(set(plan.bits) ^ names)
        raise MixqsamError(f"The bit plan was made for another model: unit {odd} is in one of them only.")
