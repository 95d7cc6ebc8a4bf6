"""AdaRound: the rounding of each layer's weight is learned, layer by layer; activations as in `omse`.

See docs/method.md, “AdaRound, BRECQ and QDrop”.
"""

from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.reconstruction import method

ADAROUND = Recipe(
    "adaround",
    "learned rounding, layer by layer",
    "AdaRound, arXiv 2004.10568",
    method=method.ADAROUND,
    least_images=4,
)
