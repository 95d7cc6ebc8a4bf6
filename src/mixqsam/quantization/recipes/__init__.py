"""The recipes, one file each."""

from collections.abc import Mapping, Sequence

from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.plan import BitPlan
from mixqsam.progress import Progress
from mixqsam.quantization.custom import CustomRecipe, check_name
from mixqsam.quantization.recipe import Recipe, Rewrite, Step
from mixqsam.quantization.recipes.adaround import ADAROUND
from mixqsam.quantization.recipes.ahcptq import AHCPTQ
from mixqsam.quantization.recipes.brecq import BRECQ
from mixqsam.quantization.recipes.compensated import COMPENSATED
from mixqsam.quantization.recipes.folded import FOLDED
from mixqsam.quantization.recipes.minmax import MINMAX
from mixqsam.quantization.recipes.omse import OMSE
from mixqsam.quantization.recipes.percentile import PERCENTILE
from mixqsam.quantization.recipes.ptq4sam import PTQ4SAM_L, PTQ4SAM_S
from mixqsam.quantization.recipes.qdrop import QDROP
from mixqsam.quantization.recipes.saq_sam import SAQ_SAM
from mixqsam.quantization.reconstruction.method import Method
from mixqsam.quantization.steps.bimodal import merge_bimodal
from mixqsam.quantization.steps.clipping import PerceptualClipping
from mixqsam.quantization.steps.folding import fold_norms
from mixqsam.quantization.steps.granularity import AdaptiveGranularity
from mixqsam.quantization.steps.grouping import ChannelGrouping
from mixqsam.quantization.steps.hybrid import HybridLogUniform
from mixqsam.sam.load import Sam

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
        FOLDED,
    )
}


STEPS: Mapping[str, Step] = {
    "granularity": AdaptiveGranularity(),
    "clipping": PerceptualClipping(),
    "hybrid": HybridLogUniform(),
    "grouping": ChannelGrouping(),
}
REWRITES: Mapping[str, Rewrite] = {"bimodal": merge_bimodal, "folding": fold_norms}
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


def _in_turn(rewrites: Sequence[Rewrite]) -> Rewrite | None:
    """One rewrite that does several, each on what the one before it gave."""
    if len(rewrites) < 2:
        return next(iter(rewrites), None)

    def rewrite(sam: Sam, plan: BitPlan, samples: Sequence[Sample], cache: Cache, progress: Progress) -> Sam:
        for one in rewrites:
            sam = one(sam, plan, samples, cache, progress)
        return sam

    return rewrite


def _build(parts: CustomRecipe) -> Recipe:
    method = METHODS[parts.method]
    return Recipe(
        parts.name,
        "put together by the user",
        "",
        observer=parts.observer,
        weight_observer=parts.weight_observer,
        rewrite=_in_turn([REWRITES[name] for name in parts.steps if name in REWRITES]),
        steps=tuple(STEPS[name] for name in parts.steps if name in STEPS),
        method=method,
        least_images=1 if method is None else 4,
    )
