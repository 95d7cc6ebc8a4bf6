"""What every part of a recipe works with, and what it may not change."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixqsam.calibrate import Ranges, identify_passes, run_sample
from mixqsam.data.samples import Sample
from mixqsam.errors import MixqsamError
from mixqsam.files import Cache, digest
from mixqsam.numeric.quantizers import ActivationQuantizer
from mixqsam.plan import HALF_BITS, BitPlan, Operand, Role, Unit
from mixqsam.progress import Progress
from mixqsam.sam.hooks import Watcher, watched
from mixqsam.sam.load import Sam
from mixqsam.weight_grids import WeightGrids

# (unit, operand) → the quantizer of that activation.
Activations = Mapping[tuple[str, Operand], ActivationQuantizer]


@dataclass(frozen=True)
class Setting:
    """A float model, the bits it shall have, and what was measured of it.

    Attributes:
        sam: the float model, already rewritten if the recipe rewrites.
        units: all of them, in the order in which the data flows.
        plan: bits of every unit.
        samples: calibration images with prompts.
        ranges: activations' ranges by the recipe's observer.
        weights: weights' grids by the recipe's observer.
        cache: keeps what is finished.
        progress: receives steps.
    """

    sam: Sam
    units: Sequence[Unit]
    plan: BitPlan
    samples: Sequence[Sample]
    ranges: Ranges
    weights: WeightGrids
    cache: Cache
    progress: Progress

    def quantized(self, *roles: Role) -> list[Unit]:
        """The units that the plan quantizes and that have one of the roles (all of them without `roles`)."""
        return [u for u in self.units if not self.plan.bits[u.name].is_float and (not roles or u.role in roles)]

    def activation_bits(self, *roles: Role) -> dict[str, int]:
        """Name → bits of the quantizer of the input (or of the left operand), of the units that `quantized` finds."""
        found = {unit.name: self.plan.bits[unit.name].activation for unit in self.quantized(*roles)}
        return {name: bits for name, bits in found.items() if bits < HALF_BITS}

    def need(self, *roles: Role, step: str) -> None:
        """Refuse a model without any unit of these roles, which a step of a recipe works on.

        Raises:
            MixqsamError: it names the step and the family.
        """
        check_roles(self.sam, self.units, *roles, step=step)

    def key(self, *more: object) -> str:
        """A hash of the model, the samples, how passes round, and whatever else a result depends on."""
        return digest(*identify_passes(self.sam, self.samples), *more)

    def remembered(
        self,
        stage: str,
        depends: Mapping[str, Sequence[object]],
        make: Callable[[list[str]], Iterator[tuple[str, Any]]],
    ) -> dict[str, Any]:
        """JSON-able values by name: those that are kept, and those that `make` finds, which are kept from then on.

        Args:
            stage: what they are.
            depends: name → what its value depends on, beside the model and the samples.
            make: from the names of what is not known to their values, one after the other.
        """
        keys = {name: self.key(stage, name, *parts) for name, parts in depends.items()}
        found = {name: self.cache.get(stage, key) for name, key in keys.items()}
        missing = [name for name, value in found.items() if value is None]
        for name, value in make(missing) if missing else ():
            self.cache.put(stage, keys[name], value)
            found[name] = value
        return found

    def watch(self, watchers: Mapping[str, Watcher], *, label: str, samples: int | None = None) -> None:
        """Run the float model over the samples (or the first few) and show each watched module's traffic."""
        some = self.samples[:samples]
        with watched(self.sam.model, watchers):
            for sample in self.progress.track(some, label=label, total=len(some)):
                run_sample(self.sam, sample)


def check_roles(sam: Sam, units: Sequence[Unit], *roles: Role, step: str) -> None:
    """Refuse a model that has no unit of any of the roles, whatever the plan makes of it.

    Raises:
        MixqsamError: it names the step and the family.
    """
    if not any(unit.role in roles for unit in units):
        raise MixqsamError(
            f"{step} works on units of role {' or '.join(roles)}; models of the family {sam.family.name!r} have none. "
            "Choose another recipe."
        )


def observed(setting: Setting) -> dict[tuple[str, Operand], ActivationQuantizer]:
    """Every activation on the affine grid (or grids) that the observer chose: what recipes start from."""
    ranges, bits = setting.ranges, setting.plan.bits
    return {
        (unit.name, operand): ranges.quantizer(unit.name, operand=operand, bits=bits[unit.name].of(operand))
        for unit in setting.quantized()
        for operand in unit.activations
    }
