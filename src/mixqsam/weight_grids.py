"""Grids of a model's weights, each searched once; they need no images, but the observer of the calibration."""

from torch import Tensor

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.half import HalfTensor, StoredWeight
from mixqsam.numeric.weights import quantize_weight, weight_grid
from mixqsam.plan import HALF_BITS
from mixqsam.sam.load import Sam


class WeightGrids:
    """Per-channel grids of a model's weights, each searched once, when first asked for."""

    def __init__(self, sam: Sam, *, observer: str) -> None:
        self._sam, self.observer = sam, observer
        self._known: dict[tuple[str, int], AffineGrid] = {}

    def weight(self, unit: str) -> Tensor:
        """The float weight of a linear or convolution."""
        weight = self._sam.model.get_submodule(unit).weight
        if not isinstance(weight, Tensor):
            raise TypeError(f"{unit} has no weight")
        return weight

    def grid(self, unit: str, *, bits: int) -> AffineGrid:
        """The grid of a unit's weight at one bit-width.

        Raises:
            NumericError: the weight holds NaN or infinity.
        """
        key = (unit, bits)
        if key not in self._known:
            self._known[key] = weight_grid(self.weight(unit), bits=bits, observer=self.observer, name=unit)
        return self._known[key]

    def nearest(self, unit: str, *, bits: int) -> StoredWeight:
        """A unit's weight rounded to nearest: on its grid, or in half precision.

        Raises:
            NumericError: the weight holds NaN or infinity.
        """
        weight = self.weight(unit)
        if bits == HALF_BITS:
            return HalfTensor.nearest(weight, name=unit)
        return quantize_weight(weight, self.grid(unit, bits=bits))


class GridLibrary:
    """The weight grids of several models and observers, so that no grid is searched twice in a session."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], WeightGrids] = {}

    def of(self, sam: Sam, *, observer: str) -> WeightGrids:
        """The grids of a model's weights by an observer."""
        return self._known.setdefault((sam.fingerprint, observer), WeightGrids(sam, observer=observer))
