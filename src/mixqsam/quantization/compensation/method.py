"""How a recipe compensates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from mixqsam.data.samples import space_evenly

Image = TypeVar("Image")

# What may be done with one unit's weight; `nearest` is always among what is compared.
Way = Literal["nearest", "ridge", "gptq", "ridge-gptq"]
WAYS: tuple[Way, ...] = ("nearest", "ridge", "gptq", "ridge-gptq")
# Side in pixels of the square that a token of the image embedding stands for.
_PATCH = 16
# A forward pass with fewer multiply-adds takes little time beside the fit of layers. MobileSAM has 39·10⁹ of them,
# SAM-B 486·10⁹.
_CHEAP = 10**11


@dataclass(frozen=True)
class Compensation:
    """How a model is compensated.

    Attributes:
        inputs: what a layer is fitted to: `float`, the float model's input quantized by the layer's own quantizer
            (all layers of a block at once); or `quantized`, the input that the quantized model has there so far
            (one layer after the other), its output to be the float model's.
        ways: what is tried with each weight, beside rounding to nearest.
        dampings: λ, as shares of the mean diagonal of X̂X̂ᵀ; each is tried.
        positions: that layers are fitted to, of all images together, about.
        least_images: that they come from, at least, if there are enough; each image costs several passes.
        cheap_images: the same where a forward pass is cheap. In MobileSAM, mixed bits agree better with 16 images than
            with 8, at the same number of positions.
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
    positions: int = 16384
    least_images: int = 8
    cheap_images: int = 16
    ordered: bool = True
    weighted_grids: bool = True
    passes: int = 0
    biases: bool = True
    forced: bool = False
    refits: bool = True

    def count_rows(self, images: int) -> int:
        """Count the positions that are taken of each image, at most; `images` is the number of selected images."""
        return -(-self.positions // max(images, self.least_images))

    def select(self, images: Sequence[Image], *, side: int, work: int) -> list[Image]:
        """Select the calibration images that layers are fitted to: evenly spaced ones, in their order.

        Args:
            images: all of them.
            side: of the model's frame in pixels, which gives the number of positions of an image.
            work: multiply-adds of a forward pass.
        """
        least = max(self.least_images, self.cheap_images) if work < _CHEAP else self.least_images
        wanted = max(least, -(-self.positions // max(1, side // _PATCH) ** 2))
        count = min(wanted, len(images))
        return space_evenly(images, count=count)
