"""The share of each unit in reports: its importance, or otherwise its KL divergence at a few bits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mixqsam.plan import CANDIDATE_BITS, Analysis, Vector

IMPORTANCE = "importance"
# Reports show the KL divergence at these bits, or at the nearest measured bit-width.
_REFERENCE_BITS = 4


def unit_shares(analysis: Analysis, objective: Mapping[str, Any] | None) -> tuple[str, Vector] | None:
    """Name the measure and return each unit's share, [units]; they sum to 1. None without measurements of units.

    Args:
        analysis: importance and sensitivities of the units.
        objective: objective of the allocation, which selects the output distribution; None for the first.
    """
    output = str((objective or {}).get("output"))
    if analysis.importance:
        return IMPORTANCE, _select_output(analysis.importance, output)
    if analysis.fisher:
        return _at_reference(_select_output(analysis.fisher, output), CANDIDATE_BITS, kind="Fisher KL")
    if analysis.sensitivity:
        return _at_reference(_select_output(analysis.sensitivity, output), analysis.sensitivity_bits, kind="KL")
    return None


def _select_output(by_output: Mapping[str, Vector], output: str) -> Vector:
    return by_output.get(output, next(iter(by_output.values())))


def _at_reference(divergence: Vector, bits: tuple[int, ...], *, kind: str) -> tuple[str, Vector]:
    nearest = int(np.argmin([abs(b - _REFERENCE_BITS) for b in bits]))
    values = divergence[:, :, nearest].sum(axis=1)
    return f"{kind} at {bits[nearest]} bits", values / max(float(values.sum()), 1e-300)
