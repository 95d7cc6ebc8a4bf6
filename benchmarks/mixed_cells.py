"""The cells of benchmarks.mixed_bits: how the bits of one are chosen."""

from dataclasses import dataclass
from typing import Any

from mixqsam.allocation.budget import Budget
from mixqsam.measurements import Analysis
from mixqsam.pipeline.options import AllocationOptions, Options, Session
from mixqsam.pipeline.presets import Preset, apply_preset
from mixqsam.pipeline.stages import run_allocation
from mixqsam.plan import BitPlan, UnitBits

# Forms whose bits the program chooses → options of the allocation that differ from the defaults.
PROGRAMS: dict[str, dict[str, Any]] = {
    "mixed": {},
    "mixed, as drawn": {},
    "mixed, as for nearest": {},
    "mixed 2-8": {"candidates": tuple(range(2, 9))},
    "mixed, 1 prompt": {"prompts_per_image": 1.0},
    "mixed, 10 prompts": {"prompts_per_image": 10.0},
    "mixed, tied": {"tied": True},
    "measured": {"utility": "measured"},
    "exponential": {"utility": "exponential"},
    "linear": {"utility": "linear"},
    "fisher, λ 0.1": {"synergy_weight": 0.1},
    "paper": {},
    "paper, λ 0": {"synergy_weight": 0.0},
}
# The simple rules, and mixed bits by the defaults.
RULES = ("uniform", "decoder 8", "decoder 16", "worst five 16", "mixed")
FORMS = tuple(dict.fromkeys((*RULES, *PROGRAMS)))
# Forms that need the importance of every unit.
BY_IMPORTANCE = ("exponential", "linear", "fisher, λ 0.1", "paper", "paper, λ 0")
_PAPER = "mix-qsam"
# An experiment has time for a proof.
_SECONDS = 600.0


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
    if cell.form in PROGRAMS:
        budget = Budget.parse(cell.budget)
        options = allocation_options(cell, budget)
        if options.prompts_per_image is not None:
            analysis = analysis.with_prompts(options.prompts_per_image)
        allocation = run_allocation(analysis, budget, options=options, session=session)
        if allocation.gap > 0:
            raise SystemExit(f"{cell.name}: the bits are not proven optimal (gap {allocation.gap:.2e}).")
        return allocation.plan
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


def allocation_options(cell: Cell, budget: Budget) -> AllocationOptions:
    """The options by which a program chooses the bits of a cell."""
    options = AllocationOptions(time_limit=_SECONDS, **PROGRAMS[cell.form])
    if not cell.form.startswith("paper"):
        return options
    preset = Preset(_PAPER, given=frozenset(PROGRAMS[cell.form]))
    return apply_preset(Options(allocation=options, preset=preset), budget).allocation


def worst_units(analysis: Analysis, plan: BitPlan, *, count: int) -> list[str]:
    """The units that cost most at a plan's bits, by their Fisher sensitivity."""
    table = analysis.fisher["bernoulli"]
    costs = {}
    for index, unit in enumerate(analysis.costs.units):
        bits = plan.bits[unit.name]
        costs[unit.name] = float(table[index, 0, bits.weight - 2] + table[index, 1, bits.activation - 2])
    return sorted(costs, key=lambda name: -costs[name])[:count]
