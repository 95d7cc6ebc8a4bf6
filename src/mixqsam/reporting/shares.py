"""Shares of the units for reports: their importance or, if it was not measured, their KL divergence at 4 bits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mixqsam.measurements import Analysis
from mixqsam.plan import CANDIDATE_BITS, Vector

IMPORTANCE = "importance"
# Reports show the KL divergence at these bits, or at the nearest measured bit-width.
_REFERENCE_BITS = 4


def unit_shares(analysis: Analysis, objective: Mapping[str, Any] | None) -> tuple[str, Vector] | None:
    """Select a quantity; return its name and each unit's share, [units], with the sum 1. None without measurements.

    Args:
        analysis: measurements of the units.
        objective: objective of the allocation, for its output distribution; None for the first in the analysis.
    """
    output = str((objective or {}).get("output"))
    if analysis.importance:
        return IMPORTANCE, _select(analysis.importance, output)
    if analysis.fisher:
        return _normalize(_select(analysis.fisher, output), CANDIDATE_BITS, kind="Fisher KL")
    if analysis.sensitivity:
        return _normalize(_select(analysis.sensitivity, output), analysis.sensitivity_bits, kind="KL")
    return None


def _select(measurements: Mapping[str, Vector], output: str) -> Vector:
    return measurements.get(output, next(iter(measurements.values())))


def _normalize(divergence: Vector, bits: tuple[int, ...], *, kind: str) -> tuple[str, Vector]:
    nearest = int(np.argmin([abs(b - _REFERENCE_BITS) for b in bits]))
    values = divergence[:, :, nearest].sum(axis=1)
    return f"{kind} at {bits[nearest]} bits", values / max(float(values.sum()), 1e-300)
