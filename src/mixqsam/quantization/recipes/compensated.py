"""Compensated: weights are moved and rounded in closed form, so that each layer's output errs less.

Normalisations with outliers are folded first. See docs/method.md, “Compensation” and “Folding”.
"""

from mixqsam.quantization.compensation.method import Compensation
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.steps.outliers import fold_outliers

COMPENSATED = Recipe(
    "compensated",
    "weights moved (ridge) and rounded (GPTQ) in closed form, layer by layer; outliers are folded first",
    "ERQ, arXiv 2407.06794; GPTQ, arXiv 2210.17323",
    rewrite=fold_outliers,
    compensation=Compensation(),
)
