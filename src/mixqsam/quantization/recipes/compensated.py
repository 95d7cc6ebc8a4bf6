"""Compensated: weights are moved and rounded in closed form, so that each layer's output errs less.

See docs/method.md, “Compensation”.
"""

from mixqsam.quantization.compensation.method import Compensation
from mixqsam.quantization.recipe import Recipe

COMPENSATED = Recipe(
    "compensated",
    "weights moved (ridge) and rounded (GPTQ) in closed form, layer by layer",
    "ERQ, arXiv 2407.06794; GPTQ, arXiv 2210.17323",
    compensation=Compensation(),
)
