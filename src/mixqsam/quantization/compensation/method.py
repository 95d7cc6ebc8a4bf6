"""How a recipe compensates."""

from dataclasses import dataclass
from typing import Literal

# What may be done with one unit's weight; `nearest` is always among what is compared.
Way = Literal["nearest", "ridge", "gptq", "ridge-gptq"]
WAYS: tuple[Way, ...] = ("nearest", "ridge", "gptq", "ridge-gptq")


@dataclass(frozen=True)
class Compensation:
    """How a model is compensated.

    Attributes:
        inputs: what a layer is fitted to: `float`, the float model's input quantized by the layer's own quantizer
            (all layers of a block at once); or `quantized`, the input that the quantized model has there so far
            (one layer after the other), its output to be the float model's.
        ways: what is tried with each weight, beside rounding to nearest.
        dampings: λ, as shares of the mean diagonal of X̂X̂ᵀ; each is tried.
        rows: positions that are taken of each image, at most.
        ordered: GPTQ rounds columns with large inputs first.
        weighted_grids: search each channel's grid again with squared errors weighted by the inputs' squares.
        passes: of coordinate descent over the codes after GPTQ, at most.
        biases: let biases take up the mean of the output's error.
        forced: take the best of `ways` even where rounding to nearest is better.
        refits: once a way is chosen, use it again on all inputs, with those that were kept aside.
    """

    inputs: Literal["float", "quantized"] = "quantized"
    ways: tuple[Way, ...] = ("gptq", "ridge-gptq")
    dampings: tuple[float, ...] = (0.03, 0.3)
    rows: int = 512
    ordered: bool = True
    weighted_grids: bool = True
    passes: int = 0
    biases: bool = True
    forced: bool = False
    refits: bool = True
