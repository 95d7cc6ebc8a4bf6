"""What reports draw of each unit: its importance, or where that was not measured, the KL divergence at a few bits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mixqsam.plan import CANDIDATE_BITS, Analysis, Vector

IMPORTANCE = "importance"
# Where the KL divergence of a unit is drawn, or at the nearest bit-width that was measured.
_REFERENCE_BITS = 4


def unit_shares(analysis: Analysis, objective: Mapping[str, Any] | None) -> tuple[str, Vector] | None:
    """A name and each unit's share of the whole, [units]; they sum to 1. None if nothing was measured of units.

    Args:
        analysis: what was measured.
        objective: of the allocation, which says whose output distribution counts; None for the first that was measured.
    """
    output = str((objective or {}).get("output"))
    if analysis.importance:
        return IMPORTANCE, _of(analysis.importance, output)
    if analysis.fisher:
        return _at_reference(_of(analysis.fisher, output), CANDIDATE_BITS, kind="Fisher KL")
    if analysis.sensitivity:
        return _at_reference(_of(analysis.sensitivity, output), analysis.sensitivity_bits, kind="KL")
    return None


def _of(found: Mapping[str, Vector], output: str) -> Vector:
    return found.get(output, next(iter(found.values())))


def _at_reference(divergence: Vector, bits: tuple[int, ...], *, kind: str) -> tuple[str, Vector]:
    nearest = int(np.argmin([abs(b - _REFERENCE_BITS) for b in bits]))
    values = divergence[:, :, nearest].sum(axis=1)
    return f"{kind} at {bits[nearest]} bits", values / max(float(values.sum()), 1e-300)
