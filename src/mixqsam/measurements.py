"""What was measured of a model's units, and its file.

Frozen, JSON-able and free of torch, as `mixqsam.plan`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import numpy as np

from mixqsam.errors import ArtifactError, shortened
from mixqsam.old_units import describe_old_unit
from mixqsam.plan import CANDIDATE_BITS, Costs, Kind, Operand, Part, Role, Unit, Vector
from mixqsam.times import UnitTimes

_VERSION = 3
# Sizes of files stay below this; so their products with bits are exact.
_MOST = 2**53


@dataclass(frozen=True)
class Analysis:
    """What was measured of a model's units on calibration images; `allocate` needs nothing else.

    Attributes:
        model: where the model came from.
        images: how many images were used.
        costs: units and what they cost.
        importance: P_Y definition → Ω, shape [units], sums to 1. Empty when it was not measured.
        synergy: `estimator/P_Y` → Ŝ of adjacent units, shape [units - 1].
        sensitivity: P_Y definition → KL of each operand of each unit alone at each of `sensitivity_bits`, shape
            [units, 2, bits], operands in the order of `Unit.operands`. Empty when it was not measured.
        sensitivity_bits: the bit-widths at which the sensitivity was measured.
        fisher: the same KLs at each of `CANDIDATE_BITS`, estimated from gradients. Empty when they were not measured.
    """

    model: str
    images: int
    costs: Costs
    importance: Mapping[str, Vector]
    synergy: Mapping[str, Vector]
    sensitivity: Mapping[str, Vector]
    sensitivity_bits: tuple[int, ...]
    fisher: Mapping[str, Vector] = field(default_factory=dict)

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units, in the order in which the data flows."""
        return self.costs.units

    def with_prompts(self, prompts_per_image: int) -> "Analysis":
        """The same measurements with another number of prompts per image in the BitOps."""
        return replace(self, costs=replace(self.costs, prompts_per_image=prompts_per_image))

    def with_extra_bytes(self, extra_bytes: Mapping[str, int]) -> "Analysis":
        """The same measurements for quantizers that take more bytes."""
        return replace(self, costs=replace(self.costs, extra_bytes=extra_bytes))

    def with_times(self, times: UnitTimes | None) -> "Analysis":
        """The same measurements with the times of the units in one backend."""
        return replace(self, costs=replace(self.costs, times=times))

    def with_weight_shares(self, shares: Mapping[str, float]) -> "Analysis":
        """The same measurements for weights of which only a share of the rounding error is left.

        Args:
            shares: unit → share; units that are not named keep their sensitivity.
        """
        factors = np.ones((len(self.units), 2, 1))
        factors[:, 0, 0] = [shares.get(unit.name, 1.0) for unit in self.units]
        return replace(
            self,
            sensitivity={name: values * factors for name, values in self.sensitivity.items()},
            fisher={name: values * factors for name, values in self.fisher.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form; numbers keep 9 significant digits."""
        return {
            "format": "mixqsam-analysis",
            "version": _VERSION,
            "model": self.model,
            "images": self.images,
            "float_bytes": self.costs.float_bytes,
            "compact_bytes": self.costs.compact_bytes,
            "prompts_per_image": self.costs.prompts_per_image,
            "units": [asdict(unit) for unit in self.units],
            "importance": {name: _rounded(v) for name, v in self.importance.items()},
            "synergy": {name: _rounded(v) for name, v in self.synergy.items()},
            "sensitivity_bits": list(self.sensitivity_bits),
            "sensitivity": {name: _by_operand(self.units, values) for name, values in self.sensitivity.items()},
            "fisher": {name: _by_operand(self.units, values) for name, values in self.fisher.items()},
        }

    @classmethod
    def from_json(cls, value: Any, *, source: str) -> "Analysis":
        """The inverse of `to_json`; `source` names the file in errors.

        Raises:
            ArtifactError: it is not an analysis, is of a newer version, or its arrays do not fit its units.
        """
        if not isinstance(value, dict) or value.get("format") != "mixqsam-analysis":
            raise ArtifactError(f"{source} is not an analysis; make one with `mixqsam analyze`.")
        if value.get("version") not in range(1, _VERSION + 1):
            raise ArtifactError(
                f"{source} has analysis version {value.get('version')}; this mixqsam reads up to version {_VERSION}."
            )
        try:
            units = tuple(_unit(unit, version=value["version"]) for unit in value["units"])
            bits = tuple(int(b) for b in value["sensitivity_bits"])
            result = cls(
                model=str(value["model"]),
                images=int(value["images"]),
                costs=Costs(
                    units,
                    int(value["float_bytes"]),
                    # Version 1 was written when everything stayed in float32.
                    int(value["compact_bytes" if value["version"] > 1 else "float_bytes"]),
                    int(value["prompts_per_image"]),
                ),
                importance={n: _array(v, (len(units),)) for n, v in value["importance"].items()},
                synergy={n: _array(v, (len(units) - 1,)) for n, v in value["synergy"].items()},
                sensitivity={
                    name: _sensitivity(entries, units, bits=len(bits), version=value["version"])
                    for name, entries in value["sensitivity"].items()
                },
                sensitivity_bits=bits,
                # Earlier files of this version have none.
                fisher={
                    name: _sensitivity(entries, units, bits=len(CANDIDATE_BITS), version=value["version"])
                    for name, entries in value.get("fisher", {}).items()
                },
            )
            if len({unit.name for unit in units}) != len(units) or not units:
                raise ValueError("units without names of their own")
            if not all(0 <= size < _MOST for size in (result.costs.float_bytes, result.costs.compact_bytes)):
                raise ValueError("a size that no file has")
            if not 0 < result.costs.prompts_per_image < _MOST:
                raise ValueError("a number of prompts that no image has")
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{source} is malformed ({shortened(repr(error))}); make it again with `mixqsam analyze`."
            ) from error
        return result


def _unit(entry: Mapping[str, Any], *, version: int) -> Unit:
    """A unit from a file, its kinds and sizes looked at."""
    # Up to version 2 a unit had neither role nor block; there was one family then, whose names say both.
    unit = Unit(**{**entry, **(describe_old_unit(entry["name"]) if version < 3 else {})})
    sizes = (unit.parameters, unit.channels, unit.multiply_adds)
    literals = ((unit.kind, Kind), (unit.part, Part), (unit.role, Role))
    known = all(value in get_args(kinds) for value, kinds in literals)
    known &= isinstance(unit.name, str) and isinstance(unit.block, str) and isinstance(unit.attention, str | None)
    if not known or not all(isinstance(size, int) and 0 <= size < _MOST for size in sizes):
        raise ValueError(f"no unit has {entry!r:.200}")
    return unit


def _by_operand(units: Sequence[Unit], values: Vector) -> dict[str, dict[Operand, Any]]:
    """One definition's KLs as a file has them: unit → operand → a number for each bit-width."""
    return {
        unit.name: dict(zip(unit.operands, _rounded(rows), strict=True))
        for unit, rows in zip(units, values, strict=True)
    }


def _sensitivity(entries: Mapping[str, Any], units: Sequence[Unit], *, bits: int, version: int) -> Vector:
    """One definition's KLs from a file: [units, operands, bits]."""
    if version < 3:
        # Two arrays [units, bits] of all units together, under the names of the fields of `UnitBits`.
        return np.stack([_array(entries[name], (len(units), bits)) for name in ("weight", "activation")], axis=1)
    rows = [[entries[unit.name][operand] for operand in unit.operands] for unit in units]
    return _array(rows, (len(units), 2, bits))


def _rounded(values: Vector) -> Any:
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.9g}") for value in values]


def _array(values: Any, shape: tuple[int, ...]) -> Vector:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"expected finite numbers of shape {shape}, got shape {array.shape}")
    return array
