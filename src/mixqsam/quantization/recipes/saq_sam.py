"""SAQ-SAM: clipping that keeps attention's foci, and encoder stages fitted behind the prompts.

See docs/method.md, “Perceptual-consistency clipping” and “Prompt-aware reconstruction”.
"""

from dataclasses import replace

from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.reconstruction import method
from mixqsam.quantization.steps.clipping import PerceptualClipping

SAQ_SAM = Recipe(
    "saq-sam",
    "clipping by attention's foci; stages learned through the prompts",
    "SAQ-SAM, arXiv 2503.06515",
    steps=(PerceptualClipping(),),
    method=replace(method.QDROP, cut="stage", prompt_aware=True),
    least_images=4,
)
