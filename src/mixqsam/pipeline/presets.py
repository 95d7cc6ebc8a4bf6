"""Presets: published configurations by name; this module loads neither torch nor numpy."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mixqsam.errors import BudgetError, InputError
from mixqsam.options.names import CANDIDATE_BITS
from mixqsam.options.values import quote
from mixqsam.pipeline.bits import AllocationOptions

if TYPE_CHECKING:
    from mixqsam.allocation.budget import Budget
    from mixqsam.pipeline.options import Options

# Name → options of the allocation. Candidates lie around the target; see docs/method.md, “The paper's configuration”.
PRESETS: dict[str, dict[str, Any]] = {
    "mix-qsam": {"tied": True, "utility": "linear", "synergy": "proximity", "synergy_weight": 0.1},
}
# Maximum difference in bits between the candidates of `mix-qsam` and the target.
_DISTANCE = 2


@dataclass(frozen=True)
class Preset:
    """A published configuration.

    Attributes:
        name: of `PRESETS`.
        given: names of options that the user gave besides; these stay, even where they are the defaults.
    """

    name: str
    given: frozenset[str] = frozenset()


def parse_preset(value: Any, label: str) -> Preset:
    """Parse the name of a preset.

    Raises:
        InputError: the preset is unknown; the message lists those that there are.
    """
    if isinstance(value, Preset):
        return value
    if value not in PRESETS:
        raise InputError(f"{label} {quote(value)} is unknown; choose {', '.join(PRESETS)}.")
    return Preset(value)


def write_preset(preset: str | Preset) -> str:
    """Write what `parse_preset` reads."""
    return preset if isinstance(preset, str) else preset.name


def apply_preset(options: "Options", budget: "Budget") -> "Options":
    """Set the options of the preset that the user did not set; without a preset, nothing changes.

    Args:
        options: options of a job. In Python, an option that differs from its default counts as set.
        budget: its bits are the target around which the candidates lie. A uniform budget leaves no choice.

    Raises:
        BudgetError: the budget names no target.
    """
    if options.preset is None or budget.uniform is not None:
        return options
    preset = parse_preset(options.preset, "preset")
    defaults = AllocationOptions()
    values = {
        name: value
        for name, value in PRESETS[preset.name].items()
        if name not in preset.given and getattr(options.allocation, name) == getattr(defaults, name)
    }
    if options.allocation.candidates is None:
        values["candidates"] = _find_candidates(preset, budget)
    return replace(options, allocation=replace(options.allocation, **values))


def _find_candidates(preset: Preset, budget: "Budget") -> tuple[int, ...]:
    """The bit-widths around the target of a budget such as W6A6."""
    from mixqsam.allocation.budget import UniformCosts  # noqa: PLC0415  (loads numpy)

    targets = {
        width
        for term in budget.terms
        if isinstance(term, UniformCosts)
        for width in (term.bits.weight, term.bits.activation)
    }
    near = tuple(bits for bits in CANDIDATE_BITS if targets and abs(bits - min(targets)) <= _DISTANCE)
    if len(targets) != 1 or not near:
        raise BudgetError(
            f"--preset {preset.name} takes candidates around the bits of a budget such as W6A6, and {budget} does not "
            "name one number of bits; give --candidates, e.g. 4-8."
        )
    return near
