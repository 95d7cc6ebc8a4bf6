"""OMSE: the ranges with the least squared error, of weights and activations.

See docs/method.md, “Observers”.
"""

from mixqsam.quantization.recipe import Recipe

OMSE = Recipe("omse", "ranges with the least squared error; nearest", "arXiv 1902.06822")
