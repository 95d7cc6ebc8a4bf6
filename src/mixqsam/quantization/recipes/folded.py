"""Folded: as `compensated`, after factors of normalisations' channels were moved into the weights behind them.

See docs/method.md, “Folding”.
"""

from mixqsam.quantization.compensation.method import Compensation
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.steps.folding import fold_norms

FOLDED = Recipe(
    "folded",
    "as compensated, with every norm folded that gains: its channels are scaled and shifted first, exactly",
    "SmoothQuant, arXiv 2211.10438; RepQ-ViT, arXiv 2212.08254",
    rewrite=fold_norms,
    compensation=Compensation(),
)
