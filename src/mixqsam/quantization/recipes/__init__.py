"""The recipes, one file each."""

from collections.abc import Mapping

from mixqsam.quantization.custom import CustomRecipe, check_name
from mixqsam.quantization.recipe import Recipe, Rewrite, Step
from mixqsam.quantization.recipes.adaround import ADAROUND
from mixqsam.quantization.recipes.ahcptq import AHCPTQ
from mixqsam.quantization.recipes.brecq import BRECQ
from mixqsam.quantization.recipes.compensated import COMPENSATED
from mixqsam.quantization.recipes.minmax import MINMAX
from mixqsam.quantization.recipes.omse import OMSE
from mixqsam.quantization.recipes.percentile import PERCENTILE
from mixqsam.quantization.recipes.ptq4sam import PTQ4SAM_L, PTQ4SAM_S
from mixqsam.quantization.recipes.qdrop import QDROP
from mixqsam.quantization.recipes.saq_sam import SAQ_SAM
from mixqsam.quantization.reconstruction.method import Method
from mixqsam.quantization.steps.bimodal import merge_bimodal
from mixqsam.quantization.steps.clipping import PerceptualClipping
from mixqsam.quantization.steps.granularity import AdaptiveGranularity
from mixqsam.quantization.steps.grouping import ChannelGrouping
from mixqsam.quantization.steps.hybrid import HybridLogUniform

RECIPES: Mapping[str, Recipe] = {
    one.name: one
    for one in (
        MINMAX,
        PERCENTILE,
        OMSE,
        ADAROUND,
        BRECQ,
        QDROP,
        PTQ4SAM_S,
        PTQ4SAM_L,
        AHCPTQ,
        SAQ_SAM,
        COMPENSATED,
    )
}


STEPS: Mapping[str, Step] = {
    "granularity": AdaptiveGranularity(),
    "clipping": PerceptualClipping(),
    "hybrid": HybridLogUniform(),
    "grouping": ChannelGrouping(),
}
REWRITES: Mapping[str, Rewrite] = {"bimodal": merge_bimodal}
METHODS: Mapping[str, Method | None] = {
    "nearest": None,
    **{recipe.name: recipe.method for recipe in (ADAROUND, BRECQ, QDROP, SAQ_SAM)},
}


def find_recipe(recipe: str | CustomRecipe) -> Recipe:
    """The recipe of that name, or the one that a user put together.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    if isinstance(recipe, CustomRecipe):
        return _build(recipe)
    check_name(recipe)
    return RECIPES[recipe]


def _build(parts: CustomRecipe) -> Recipe:
    method = METHODS[parts.method]
    return Recipe(
        parts.name,
        "put together by the user",
        "",
        observer=parts.observer,
        weight_observer=parts.weight_observer,
        rewrite=next((REWRITES[name] for name in parts.steps if name in REWRITES), None),
        steps=tuple(STEPS[name] for name in parts.steps if name in STEPS),
        method=method,
        least_images=1 if method is None else 4,
    )
