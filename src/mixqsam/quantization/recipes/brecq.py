"""BRECQ: rounding is learned block by block, then the scales of activations by LSQ.

See docs/method.md, “AdaRound, BRECQ and QDrop”.
"""

from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.reconstruction import method

BRECQ = Recipe(
    "brecq",
    "learned rounding, block by block, then learned scales",
    "BRECQ, arXiv 2102.05426",
    method=method.BRECQ,
    version=2,
    least_images=4,
)
