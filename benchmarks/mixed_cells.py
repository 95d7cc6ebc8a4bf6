"""The cells of benchmarks.mixed_bits: how the bits of one are chosen."""

from dataclasses import dataclass

from mixqsam.allocation.budget import Budget
from mixqsam.pipeline.options import AllocationOptions, Session
from mixqsam.pipeline.stages import run_allocation
from mixqsam.plan import Analysis, BitPlan, UnitBits


@dataclass(frozen=True)
class Cell:
    """One way to quantize.

    Attributes:
        budget: as on the command line, without `uniform:`.
        form: how the bits are chosen.
        recipe: how weights are rounded.
    """

    budget: str
    form: str
    recipe: str

    @property
    def name(self) -> str:
        """Its key in the file."""
        return f"{self.budget}, {self.form}, {self.recipe}"


def choose_bits(analysis: Analysis, cell: Cell, session: Session) -> BitPlan:
    """The bits of a cell: by the program, or by a simple rule."""
    units = analysis.costs.units
    if cell.form.startswith("mixed"):
        budget = Budget.parse(cell.budget)
        candidates = tuple(range(2, 9)) if cell.form == "mixed 2-8" else None
        options = AllocationOptions(candidates=candidates)
        return run_allocation(analysis, budget, options=options, session=session).plan
    weight, _, activation = cell.budget.removeprefix("W").partition("A")
    plan = BitPlan.uniform(units, UnitBits(int(weight), int(activation)))
    if cell.form == "uniform":
        return plan
    if cell.form == "worst five 16":
        finer = dict.fromkeys(worst_units(analysis, plan, count=5), UnitBits(16, 16))
    else:
        bits = int(cell.form.removeprefix("decoder "))
        finer = {unit.name: UnitBits(bits, bits) for unit in units if unit.part == "decoder"}
    return BitPlan({**plan.bits, **finer})


def worst_units(analysis: Analysis, plan: BitPlan, *, count: int) -> list[str]:
    """The units that cost most at a plan's bits, by their Fisher sensitivity."""
    table = analysis.fisher["bernoulli"]
    costs = {}
    for index, unit in enumerate(analysis.costs.units):
        bits = plan.bits[unit.name]
        costs[unit.name] = float(table[index, 0, bits.weight - 2] + table[index, 1, bits.activation - 2])
    return sorted(costs, key=lambda name: -costs[name])[:count]
