"""MinMax: ranges from the smallest and largest values seen.

See docs/method.md, “Observers”.
"""

from mixqsam.quantization.recipe import Recipe

MINMAX = Recipe("minmax", "ranges from the extremes; nearest", "baseline", observer="minmax", weight_observer="minmax")
