"""AHCPTQ: hybrid log-uniform grids behind activation functions, channels grouped, learned as in QDrop.

See docs/method.md, “Hybrid log-uniform grids” and “Channel-aware grouping”.
"""

from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.reconstruction import method
from mixqsam.quantization.steps.grouping import ChannelGrouping
from mixqsam.quantization.steps.hybrid import HybridLogUniform

AHCPTQ = Recipe(
    "ahcptq",
    "hybrid log-uniform grids and channel groups, learned as in qdrop",
    "AHCPTQ, arXiv 2503.03088",
    steps=(HybridLogUniform(), ChannelGrouping()),
    method=method.QDROP,
    least_images=4,
)
