"""What a recipe is: parts of the house, put together under a name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.plan import BitPlan, Unit
from mixqsam.progress import Progress
from mixqsam.quantization.compensation.method import Compensation
from mixqsam.quantization.reconstruction.method import Method
from mixqsam.quantization.setting import Activations, Setting
from mixqsam.sam.load import Sam

# An exact rewrite of the float model, for the bits that it shall have, from what its activations look like.
Rewrite = Callable[[Sam, BitPlan, Sequence[Sample], Cache, Progress], Sam]


class Step(Protocol):
    """Chooses other quantizers for some activations."""

    def extra_bytes(self, unit: Unit) -> int:
        """Bytes that the unit's quantizers take beyond a scale and a zero point for each operand."""
        ...

    def choose(self, setting: Setting, activations: Activations) -> Activations:
        """The activations' quantizers, some of them replaced."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How a float model and a bit plan become a quantized model.

    Attributes:
        name: by which users choose it.
        summary: one line for them.
        source: the publication.
        observer: of activations.
        weight_observer: of weights.
        rewrite: done to the float model first.
        steps: choose other quantizers for some activations, in turn.
        method: how it is reconstructed; None for recipes that learn nothing.
        compensation: how its weights are compensated in closed form; None for rounding to nearest.
        least_images: calibration images that it needs.
        version: raised when the recipe comes to mean something else, so that old results are not taken for new.
    """

    name: str
    summary: str
    source: str
    observer: str = "omse"
    weight_observer: str = "omse"
    rewrite: Rewrite | None = None
    steps: tuple[Step, ...] = ()
    method: Method | None = None
    compensation: Compensation | None = None
    least_images: int = 1
    version: int = 1

    @property
    def key(self) -> str:
        """What finished results are kept under."""
        return self.name if self.version == 1 else f"{self.name}@{self.version}"

    def extra_bytes(self, units: Sequence[Unit]) -> Mapping[str, int]:
        """Unit → bytes beyond a scale and a zero point for each operand; units without are left out."""
        found = {unit.name: sum(step.extra_bytes(unit) for step in self.steps) for unit in units}
        return {name: extra for name, extra in found.items() if extra}
