"""PTQ4SAM: bimodal integration and adaptive granularity; -S from statistics, -L with QDrop.

See docs/method.md, “Bimodal integration” and “Adaptive granularity”.
"""

from dataclasses import replace

from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.reconstruction import method
from mixqsam.quantization.steps.bimodal import merge_bimodal
from mixqsam.quantization.steps.granularity import AdaptiveGranularity

PTQ4SAM_S = Recipe(
    "ptq4sam-s",
    "merged modes of keys, logarithmic softmax; nearest",
    "PTQ4SAM, arXiv 2405.03144",
    observer="omse-2.4",
    rewrite=merge_bimodal,
    steps=(AdaptiveGranularity(),),
    version=2,
)
PTQ4SAM_L = replace(
    PTQ4SAM_S,
    name="ptq4sam-l",
    summary="ptq4sam-s, learned as in qdrop",
    method=method.QDROP,
    least_images=4,
)
