"""QDrop: rounding and scales are learned with activations quantized.

See docs/method.md, “AdaRound, BRECQ and QDrop”.

Half of the quantized elements are left float while learning, and only then (docs/method.md, “Honest numbers”).
"""

from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.reconstruction import method

QDROP = Recipe(
    "qdrop",
    "blocks learned with half of the quantized elements dropped",
    "QDrop, arXiv 2203.05740",
    method=method.QDROP,
    least_images=4,
)
