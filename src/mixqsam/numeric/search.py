"""Search the least error among ordered candidates, without computing it for all of them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def search_rows(errors: Callable[[Tensor], Tensor], *, count: int, rows: int) -> Tensor:
    """Find each row's candidate with the least error, where the error hardly has other minima.

    Every tenth of 100 candidates is computed, and then those around the best of them: 28 in all. On the weights of
    `sam-tiny`, the error is less than 0.1% above that of a full search on average (tests/numeric/test_search.py).

    Args:
        errors: candidate of each row [rows] → its error [rows].
        count: candidates are 0 to count − 1.
        rows: number of rows.

    Returns:
        The best candidate of each row, [rows].
    """
    stride = math.isqrt(count)
    best = torch.full((rows,), count - 1)
    least = errors(best)
    best = best.to(least.device)
    for candidate in range(count - 1 - stride, -1, -stride):
        best, least = _better(errors, torch.full_like(best, candidate), best, least)
    centre = best
    for offset in (*range(1 - stride, 0), *range(1, stride)):
        best, least = _better(errors, (centre + offset).clamp(0, count - 1), best, least)
    return best


def _better(errors: Callable[[Tensor], Tensor], tried: Tensor, best: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    found = errors(tried)
    better = found < least
    return torch.where(better, tried, best), torch.where(better, found, least)


def search_one(errors: Callable[[Tensor], Tensor], *, count: int) -> int:
    """`search_rows` for one row, whose candidates are computed together.

    Args:
        errors: candidates [n] → their errors [n].
        count: candidates are 0 to count − 1.
    """
    stride = math.isqrt(count)
    coarse = torch.arange(count - 1, -1, -stride)
    centre = int(coarse[errors(coarse).argmin()])
    near = torch.arange(max(0, centre - stride + 1), min(count, centre + stride))
    return int(near[errors(near).argmin()])
