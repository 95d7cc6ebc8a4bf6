"""How a recipe reconstructs, and how long."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mixqsam.options.fields import Option
from mixqsam.options.values import OptionClass


@dataclass(frozen=True)
class Phase:
    """A part of the iterations on one piece of the model.

    Attributes:
        weights: learn the rounding of weights.
        scales: learn the scales of activations (LSQ).
        float_share: probability that an element of a quantized activation stays float: 1 leaves activations float.
        share: of the iterations that the options say; shares need not add up to 1.
    """

    weights: bool
    scales: bool
    float_share: float
    share: float = 1.0


@dataclass(frozen=True)
class Method:
    """How a model is reconstructed.

    Attributes:
        cut: pieces: single layers, blocks, or in the encoder stages up to a global-attention block each.
        phases: what is learned, in turn.
        float_inputs: probability that an element of a piece's input is the float model's and not the quantized one's.
        prompt_aware: fit the encoder on the image tokens that come out of the two-way transformer (SAQ-SAM).
    """

    cut: Literal["layer", "block", "stage"]
    phases: tuple[Phase, ...]
    float_inputs: float = 0.0
    prompt_aware: bool = False


_PANEL = "Reconstruction"


@dataclass(frozen=True)
class ReconstructionOptions(OptionClass):
    """How long and how fast; the published settings are 20,000 iterations, rates of 1e-3 and 4e-5.

    Attributes:
        iterations: on each piece, at most; flat losses stop earlier.
        batch: images in a step; their gradients are added up, so that memory does not grow with them.
        weight_rate: Adam's rate for α.
        scale_rate: Adam's rate for the logarithms of scales, falling to zero along a cosine.
        regulariser: the weight of Σ(1 − |2h − 1|^β).
        warmup: share of the iterations without the regulariser.
        seed: of the images' order and of dropping.
    """

    iterations: Annotated[
        int, Option("Maximum number of iterations per block.", panel=_PANEL, minimum=1, is_advanced=True)
    ] = 300
    batch: Annotated[int, Option("Number of images per step.", panel=_PANEL, minimum=1, is_advanced=True)] = 1
    weight_rate: Annotated[
        float, Option("Learning rate of the weights' rounding.", panel=_PANEL, minimum=0, is_advanced=True)
    ] = 1e-2
    scale_rate: Annotated[
        float, Option("Learning rate of the activations' scales.", panel=_PANEL, minimum=0, is_advanced=True)
    ] = 2e-3
    regulariser: Annotated[
        float, Option("Weight of the rounding regulariser.", panel=_PANEL, minimum=0, is_advanced=True)
    ] = 0.01
    warmup: Annotated[
        float,
        Option(
            "Share of the iterations without the regulariser.", panel=_PANEL, minimum=0, maximum=1, is_advanced=True
        ),
    ] = 0.2
    seed: Annotated[int, Option("Random seed.", panel=_PANEL, is_advanced=True)] = 0


ADAROUND = Method("layer", (Phase(weights=True, scales=False, float_share=1.0),))
BRECQ = Method(
    "block",
    (
        Phase(weights=True, scales=False, float_share=1.0),
        Phase(weights=False, scales=True, float_share=0.0, share=0.5),
    ),
)
QDROP = Method("block", (Phase(weights=True, scales=True, float_share=0.5),), float_inputs=0.5)
