"""The recipes, one file each."""

from collections.abc import Mapping

from mixqsam.errors import InputError
from mixqsam.quantization.recipe import Recipe
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


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    if name not in RECIPES:
        raise InputError(f"The recipe {name!r} is unknown; choose {', '.join(RECIPES)}.")
    return RECIPES[name]
