"""What a user says of budgets and exceptions → numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mixqsam.errors import BudgetError
from mixqsam.plan import CANDIDATE_BITS, FLOAT, BitPlan, Costs, UnitBits, matches

HELP = (
    "W4A4 (as large and as costly as that uniform model), 12.5MB or size=12.5MB, bitops=3.2T, "
    "0.2x or size=0.2x (of the float model's size), bitops=0.03x; several, separated by commas, hold together"
)
_POWERS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}
_BINARY = {"ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30}


@dataclass(frozen=True)
class Budget:
    """Limits of one model.

    Attributes:
        text: as the user said it.
        size: bytes of the file, scales and float tensors included; None for no limit.
        bitops: BitOps per image; None for no limit.
    """

    text: str
    size: float | None
    bitops: float | None


def parse_bits(text: str) -> UnitBits:
    """`W4A6`, `8` (both), or `float`.

    Raises:
        BudgetError: none of these, or bits outside 2–8.
    """
    cleaned = text.strip().lower()
    if cleaned in {"float", "32", "w32a32"}:
        return FLOAT
    match = re.fullmatch(r"w(\d+)a(\d+)|(\d+)", cleaned)
    if not match:
        raise BudgetError(f"{text!r} is no bit-width; write W4A6, 8 (for both), or float.")
    bits = UnitBits(int(match[1] or match[3]), int(match[2] or match[3]))
    if not {bits.weight, bits.activation} <= set(CANDIDATE_BITS):
        raise BudgetError(f"{text!r}: bit-widths go from {CANDIDATE_BITS[0]} to {CANDIDATE_BITS[-1]}.")
    return bits


def parse_keep(rules: Sequence[str], *, names: Sequence[str]) -> dict[str, UnitBits]:
    """Fixed bits by pattern, e.g. `neck.*=8`, `*.av=W8A8`, `layers.0.*=float`; later rules win.

    Returns:
        unit name → its bits, for the units that a rule fits.

    Raises:
        BudgetError: a rule is malformed, or fits no unit.
    """
    fixed: dict[str, UnitBits] = {}
    for rule in rules:
        pattern, equals, bits = rule.partition("=")
        if not equals:
            raise BudgetError(f"--keep {rule!r}: write PATTERN=BITS, e.g. 'neck.*=8' or 'layers.0.*=float'.")
        fitting = [name for name in names if matches(name, pattern)]
        if not fitting:
            raise BudgetError(f"--keep {rule!r}: no unit fits {pattern!r}; units are named like {names[0]}.")
        fixed.update(dict.fromkeys(fitting, parse_bits(bits)))
    return fixed


def resolve_budget(text: str, costs: Costs, *, fixed: dict[str, UnitBits] | None = None) -> Budget:
    """Turn a budget's text into bytes and BitOps of a model.

    A uniform budget such as W4A4 is that uniform model's size and BitOps; units that are kept float are float in
    it too, units kept at other bits are not.

    Raises:
        BudgetError: the text cannot be understood.
    """
    size: float | None = None
    bitops: float | None = None
    for part in text.split(","):
        part_size, part_bitops = _one(part.strip(), costs, fixed or {})
        size = _tighter(size, part_size)
        bitops = _tighter(bitops, part_bitops)
    return Budget(text, size, bitops)


def _tighter(first: float | None, second: float | None) -> float | None:
    known = [value for value in (first, second) if value is not None]
    return min(known) if known else None


def _one(text: str, costs: Costs, fixed: dict[str, UnitBits]) -> tuple[float | None, float | None]:
    if re.fullmatch(r"(?i)w\d+a\d+", text):
        plan = BitPlan.uniform(costs.units, parse_bits(text))
        kept = {name: bits for name, bits in fixed.items() if bits.is_float}
        plan = BitPlan({**plan.bits, **kept})
        return costs.size(plan), float(costs.bitops(plan))
    kind, equals, amount = text.rpartition("=")
    kind = kind.strip().lower() if equals else "size"
    if kind == "size":
        return _amount(amount, text, reference=costs.size(costs.float_plan), unit="b|bytes?"), None
    if kind == "bitops":
        return None, _amount(amount, text, reference=float(costs.bitops(costs.float_plan)), unit="bitops|bops")
    raise BudgetError(f"Budget {text!r} cannot be understood; write {HELP}.")


def _amount(text: str, whole: str, *, reference: float, unit: str) -> float:
    pattern = rf"(\d+(?:\.\d+)?(?:e\d+)?)\s*(?:(x)|(%)|(ki|mi|gi|[kmgtp]?)(?:{unit})?)"
    match = re.fullmatch(pattern, text.strip().lower())
    value = float(match[1]) if match else 0.0
    if not match or not 0 < value < float("inf"):
        raise BudgetError(f"Budget {whole!r} cannot be understood; write {HELP}.")
    if match[2] or match[3]:
        return value * reference / (100 if match[3] else 1)
    return value * (_POWERS | _BINARY)[match[4] or ""]
