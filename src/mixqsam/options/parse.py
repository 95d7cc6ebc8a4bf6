"""Lists of bit-widths: from a user's text, and back."""

from typing import Any

from mixqsam.errors import BudgetError
from mixqsam.options.names import CANDIDATE_BITS
from mixqsam.options.values import quote


def parse_candidates(value: Any, label: str) -> tuple[int, ...]:
    """Bit-widths to choose from, at least one.

    Raises:
        BudgetError: not whole numbers from 2 to 8, or none.
    """
    bits = parse_measured_bits(value, label)
    if not bits:
        raise BudgetError(f"{label} names no bit-width.")
    return bits


def parse_measured_bits(value: Any, label: str) -> tuple[int, ...]:
    """`2-8`, `2,4,8`, or a list of numbers → bit-widths, ascending; an empty text gives none.

    Raises:
        BudgetError: not whole numbers from 2 to 8.
    """
    parts = value.replace(" ", "").split(",") if isinstance(value, str) else value
    bits: set[int] = set()
    try:
        for part in parts:
            first, _, last = str(part).partition("-")
            if first:
                bits.update(range(_bits(first), _bits(last or first) + 1))
    except (TypeError, ValueError) as error:
        raise BudgetError(f"{label} {quote(value)}: write bit-widths as 2-8 or 2,4,8.") from error
    if not bits <= set(CANDIDATE_BITS):
        raise BudgetError(f"{label} {quote(value)}: bit-widths go from {CANDIDATE_BITS[0]} to {CANDIDATE_BITS[-1]}.")
    return tuple(sorted(bits))


def _bits(text: str) -> int:
    """A number of bits; beyond any that there are, one that is refused by its size and not counted up to."""
    return min(int(text), 99)


def write_bits(bits: tuple[int, ...]) -> str:
    """What `parse_measured_bits` reads."""
    if len(bits) > 2 and bits == tuple(range(bits[0], bits[-1] + 1)):
        return f"{bits[0]}-{bits[-1]}"
    return ",".join(map(str, bits))
