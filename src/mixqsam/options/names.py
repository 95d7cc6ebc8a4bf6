"""Names that users may choose from; this module does not load the objects behind them.

A test compares each list with the table of these objects.
"""

from typing import Literal, get_args

Observer = Literal["minmax", "avgminmax", "percentile", "omse", "omse-2.4"]
Step = Literal["bimodal", "folding", "granularity", "clipping", "hybrid", "grouping"]
Reconstruction = Literal["nearest", "adaround", "brecq", "qdrop", "saq-sam"]
Utility = Literal["linear", "exponential", "measured", "fisher"]
OutputDistribution = Literal["bernoulli", "spatial"]
Synergy = Literal["proximity", "interaction"]
Mode = Literal["uniform", "mixed"]
PromptKind = Literal["boxes", "points"]

# Where the demonstration writes, and where the page looks for a model when it is not given one.
DEMO_FOLDER = "mixqsam-demo"
CANDIDATE_BITS = (2, 3, 4, 5, 6, 7, 8)
UNIT_BITS = (*CANDIDATE_BITS, 16)
RECIPE_NAMES = (
    "minmax",
    "percentile",
    "omse",
    "adaround",
    "brecq",
    "qdrop",
    "ptq4sam-s",
    "ptq4sam-l",
    "ahcptq",
    "saq-sam",
    "compensated",
    "folded",
)
DEFAULT_RECIPE = "compensated"
# Recipes that learn the rounding, whose options are iterations and rates.
RECONSTRUCTING_RECIPES = ("adaround", "brecq", "qdrop", "ptq4sam-l", "ahcptq", "saq-sam")
# PyTorch, and the runtimes of exported models.
BACKEND_NAMES = ("torch", "onnx", "openvino")
OUTPUT_DISTRIBUTIONS: tuple[OutputDistribution, ...] = get_args(OutputDistribution)
SYNERGIES: tuple[Synergy, ...] = get_args(Synergy)
