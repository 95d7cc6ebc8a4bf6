"""Parse and write lists of bit-widths."""

from typing import Any

from mixqsam.errors import BudgetError
from mixqsam.options.names import CANDIDATE_BITS, UNIT_BITS
from mixqsam.options.values import quote


def parse_candidates(value: Any, label: str) -> tuple[int, ...]:
    """Parse at least one bit-width to choose from.

    Raises:
        BudgetError: the bits are not whole numbers from 2 to 8 or 16, or the list is empty.
    """
    bits = _parse_list(value, label)
    if not bits <= set(UNIT_BITS):
        raise BudgetError(f"{label} {quote(value)}: bit-widths go from 2 to 8, or are 16.")
    if not bits:
        raise BudgetError(f"{label} is empty; give at least one bit-width, such as 2-8.")
    return tuple(sorted(bits))


def parse_measured_bits(value: Any, label: str) -> tuple[int, ...]:
    """Parse `2-8`, `2,4,8`, or a list of numbers into ascending bit-widths; an empty text gives none.

    Raises:
        BudgetError: the bits are not whole numbers from 2 to 8.
    """
    bits = _parse_list(value, label)
    if not bits <= set(CANDIDATE_BITS):
        raise BudgetError(f"{label} {quote(value)}: bit-widths go from {CANDIDATE_BITS[0]} to {CANDIDATE_BITS[-1]}.")
    return tuple(sorted(bits))


def _parse_list(value: Any, label: str) -> set[int]:
    parts = value.replace(" ", "").split(",") if isinstance(value, str) else value
    bits: set[int] = set()
    try:
        for part in parts:
            first, _, last = str(part).partition("-")
            if first:
                bits.update(range(_parse_bits(first), _parse_bits(last or first) + 1))
    except (TypeError, ValueError) as error:
        raise BudgetError(f"{label} {quote(value)}: write bit-widths as 2-8 or 2,4,8.") from error
    return bits


def _parse_bits(text: str) -> int:
    """Parse a number of bits; a limit avoids huge ranges, which are refused later."""
    return min(int(text), 99)


def write_bits(bits: tuple[int, ...]) -> str:
    """Write ascending bit-widths as `parse_candidates` reads them."""
    grids = [width for width in bits if width in CANDIDATE_BITS]
    if len(grids) <= 2 or grids != list(range(grids[0], grids[-1] + 1)):
        return ",".join(map(str, bits))
    return ",".join([f"{grids[0]}-{grids[-1]}", *(str(width) for width in bits if width not in grids)])
