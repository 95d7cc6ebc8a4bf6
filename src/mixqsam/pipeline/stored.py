"""Read a stored allocation, and give its bits to a model."""

from dataclasses import replace
from pathlib import Path

from mixqsam.allocation.choose import Allocation
from mixqsam.errors import ArtifactError
from mixqsam.files import read_json
from mixqsam.measurements import Analysis
from mixqsam.pipeline.stages import MARKER
from mixqsam.plan import BitPlan, Costs


def read_allocation(path: Path) -> Allocation:
    """Read an allocation file, or that of a quantized directory.

    Raises:
        ArtifactError: it cannot be read.
    """
    path = path.expanduser()
    path = path / MARKER if path.is_dir() else path
    return Allocation.from_json(read_json(path, what="an allocation"), source=str(path))


def check_units(allocation: Allocation, costs: Costs) -> None:
    """Check that an allocation has bits for each unit of a model, and for no others.

    Raises:
        ArtifactError: it is the allocation of another model; the message names a unit.
    """
    names, planned = {unit.name for unit in costs.units}, set(allocation.plan.bits)
    if missing := sorted(names - planned):
        raise ArtifactError(
            f"The stored allocation is that of another model: it has no bits for {missing[0]} "
            f"({len(missing)} of {len(names)} units are missing). Make one for this model with `mixqsam allocate`."
        )
    if other := sorted(planned - names):
        raise ArtifactError(
            f"The stored allocation is that of another model: this model has no unit {other[0]:.80}. "
            "Make one for this model with `mixqsam allocate`."
        )


def adopt_allocation(allocation: Allocation, analysis: Analysis) -> Allocation:
    """Keep the bits of a stored allocation, in the model's order, and compute their costs for this model and recipe."""
    plan = BitPlan({unit.name: allocation.plan.bits[unit.name] for unit in analysis.units})
    return replace(allocation, plan=plan, size=analysis.costs.size(plan), bitops=float(analysis.costs.bitops(plan)))
