"""Percentile: activations clipped to the best pair of quantiles by MSE.

See docs/method.md, “Observers”.
"""

from mixqsam.quantization.recipe import Recipe

PERCENTILE = Recipe("percentile", "activations clipped to quantiles; nearest", "baseline", observer="percentile")
