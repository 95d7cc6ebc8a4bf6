"""What other bits a quantized model could have: its analysis is stored, so that only the program is solved again."""

import math
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.uniform import nearest_uniform, uniform_allocation, uniform_label
from mixqsam.directories import free_path
from mixqsam.errors import BudgetError, InputError
from mixqsam.files import read_json
from mixqsam.options.flat import flatten
from mixqsam.options.values import convert
from mixqsam.pipeline.expected import Expectation
from mixqsam.pipeline.options import AllocationOptions
from mixqsam.pipeline.report import read_run
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import MARKER, read_analysis, run_allocation
from mixqsam.plan import CANDIDATE_BITS, UnitBits
from mixqsam.reporting.network import network_svg, unit_facts
from mixqsam.reporting.record import NAME

# Somebody is waiting with a finger on the slider.
_SECONDS = 2.0


@dataclass(frozen=True)
class Range:
    """Between which values a budget makes sense: of the uniform models with the fewest and the most bits.

    Attributes:
        low, high: bytes, or BitOps per image.
        now: of the model as it is: its budget, or where that was open, what it costs.
    """

    low: float
    high: float
    now: float


class Explorer:
    """Solves many budgets on one stored analysis.

    Args:
        directory: a directory that `quantize` wrote.

    Raises:
        ArtifactError: it cannot be read.
        InputError: its budget was uniform, so that nothing was measured.
    """

    def __init__(self, directory: Path) -> None:
        self._analysis = read_analysis(directory)
        if not (self._analysis.fisher or self._analysis.sensitivity or self._analysis.importance):
            raise InputError(
                f"{directory.name} was quantized at a uniform budget, which measures nothing. To choose other bits, "
                "run `mixqsam quantize` with a budget such as W4A4."
            )
        stored = Allocation.from_json(
            read_json(directory / MARKER, what="an allocation"), source=str(directory / MARKER)
        )
        self._directory = directory.absolute()
        self._options, self._origin = _stored_options(self._directory)
        low, high = (
            uniform_allocation(self._analysis, UnitBits(bits, bits)) for bits in (CANDIDATE_BITS[0], CANDIDATE_BITS[-1])
        )
        self._expectation = Expectation(self._directory, self._analysis, stored, self._options.objective)
        self.size = _make_range(low.size, high.size, stored.budget.size or stored.size)
        self.bitops = _make_range(low.bitops, high.bitops, stored.budget.bitops or stored.bitops)

    def choose(self, *, size: float, bitops: float, tied: bool) -> Allocation:
        """Choose the best bits within a size and BitOps.

        Raises:
            BudgetError: the budget is too small; the message names the smallest possible one.
        """
        options = replace(self._options, tied=tied, time_limit=_SECONDS)
        budget = Budget.parse(_write_budget(size, bitops))
        return run_allocation(self._analysis, budget, options=options, session=Session())

    def solve(self, *, size: float, bitops: float, tied: bool) -> dict[str, Any]:
        """Choose bits as `choose` does; return their costs, the expected quality, the picture and the command.

        Raises:
            BudgetError: the budget is too small; the message names the smallest possible one.
        """
        allocation = self.choose(size=size, bitops=bitops, tied=tied)
        uniform = nearest_uniform(self._analysis, allocation, keep=self._options.keep)
        facts = unit_facts(self._analysis, allocation.plan, allocation.to_json()["objective"])
        parameters = sum(int(fact["parameters"]) for fact in facts)
        bits = sum(int(fact["parameters"]) * int(fact["weight"]) for fact in facts)
        return {
            "size": allocation.size,
            "bitops": allocation.bitops,
            "gap": allocation.gap,
            "seconds": allocation.seconds,
            "mean_weight_bits": bits / max(1, parameters),
            "uniform": uniform_label(self._analysis, uniform) if uniform else None,
            "expected": self._expectation.describe(allocation),
            "picture": network_svg(facts),
            "command": self._write_command(_write_budget(size, bitops), tied=tied),
        }

    def _write_command(self, budget: str, *, tied: bool) -> str:
        """Write the command that makes the model, in a directory that does not exist yet."""
        output = free_path(self._directory.with_name(f"{self._directory.name}-{budget.partition(',')[0]}"))
        words = [*self._origin, "--budget", budget, "--tied" if tied else "--free", "-o", str(output)]
        return shlex.join(["mixqsam", "quantize", *words])


def _stored_options(directory: Path) -> tuple[AllocationOptions, list[str]]:
    """Read the options of the directory's allocation, and the arguments of a command that repeats its run."""
    path = directory / NAME
    stored = read_run(directory).options if path.is_file() else {}
    if not stored:
        # An earlier version wrote it, which measured importance.
        unknown = ["--model", "YOUR_SAM", "--images", "FOLDER", "--utility", "exponential"]
        return AllocationOptions(utility="exponential"), unknown
    entries = [entry for entry in flatten(AllocationOptions) if entry.name in stored]
    values = {entry.name: convert(entry, stored[entry.name], label=f"{path}: {entry.name}") for entry in entries}
    # The demonstration's photographs are not a folder that an option could name.
    images = [] if "images" in stored else ["--images", "FOLDER"]
    return AllocationOptions(**values), ["--config", str(path), *images]


def _make_range(low: float, high: float, now: float) -> Range:
    """A range that holds the model as it is; 16 bits may take it beyond the uniform models."""
    return Range(low, max(high, now), now)


def _write_budget(size: float, bitops: float) -> str:
    """Write a budget of bytes and BitOps as the command line reads it.

    Raises:
        BudgetError: a number is not one of a budget.
    """
    if not (1 <= size <= 1e15 and 1 <= bitops <= 1e21):
        raise BudgetError("A budget is 1 to 1e15 bytes and 1 to 1e21 BitOps.")
    return f"{_short(size / 1e6)}MB,bitops={_short(bitops / 1e9)}G"


def _short(value: float) -> str:
    """Format six digits without an exponent, rounded up, so that a budget that just fits still fits."""
    scale = 10.0 ** (5 - math.floor(math.log10(value)))
    return f"{math.ceil(value * scale * (1 - 1e-12)) / scale:.12f}".rstrip("0").rstrip(".")
