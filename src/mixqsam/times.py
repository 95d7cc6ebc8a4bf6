"""How long the units of a model take in a backend on one machine."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mixqsam.errors import ArtifactError, shortened

# How a runtime computes a unit. In `integer` both operands are codes, of 8 bits where they are activations. In `narrow`
# activations have fewer bits, and are clipped first. In `mixed` one operand has codes and the other one 16 bits, in
# `half` both have 16 bits; both compute with floats, as `float` does.
Arithmetic = Literal["integer", "narrow", "mixed", "half", "float"]
ARITHMETICS: tuple[Arithmetic, ...] = get_args(Arithmetic)
_FORMAT, _VERSION = "mixqsam-times", 1


@dataclass(frozen=True)
class UnitTimes:
    """Times of the units of a model in one backend on one machine.

    Attributes:
        backend: name of the backend.
        threads: number of threads of the runtime.
        machine: processor, versions of the runtime and of mixqsam.
        encoder: seconds of an image apart from the times of units: preparation, norms, softmax, and all units at their
            fastest.
        decoder: likewise of a prompt.
        seconds: unit → arithmetic → seconds above the fastest one of this unit, at least 0; of a unit in the decoder
            for each prompt.
    """

    backend: str
    threads: int
    machine: Mapping[str, str]
    encoder: float
    decoder: float
    seconds: Mapping[str, Mapping[Arithmetic, float]]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {"format": _FORMAT, "version": _VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any, *, source: str) -> "UnitTimes":
        """The inverse of `to_json`; `source` names the file in errors.

        Raises:
            ArtifactError: it holds no times of units, or is malformed.
        """
        if not isinstance(value, dict) or value.get("format") != _FORMAT or value.get("version") != _VERSION:
            raise ArtifactError(f"{source} holds no times of units; measure them with `mixqsam benchmark --units`.")
        try:
            times = cls(
                backend=str(value["backend"]),
                threads=int(value["threads"]),
                machine={str(name): str(text) for name, text in value["machine"].items()},
                encoder=_check_seconds(value["encoder"]),
                decoder=_check_seconds(value["decoder"]),
                seconds={
                    str(unit): {one: _check_seconds(entry[one]) for one in ARITHMETICS}
                    for unit, entry in value["seconds"].items()
                },
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{source} is malformed ({shortened(repr(error))}); measure again with `mixqsam benchmark --units`."
            ) from error
        return times


def _check_seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"no time is {seconds}")
    return seconds
