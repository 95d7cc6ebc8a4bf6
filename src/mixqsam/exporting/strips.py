"""Maps in strips of rows: what is computed between two small maps stays in a processor's cache.

The wide maps of MobileSAM's first stage have 64 MB each, and a runtime passes over them a dozen times. Memory is then
what limits the speed, and a second thread gains little. The values are the same, whatever the strips.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mixqsam.exporting.graph import Graph

# Bytes of a strip of the widest map. Smaller strips compute more border rows twice, larger ones leave the cache.
STRIP_BYTES = 1 << 23


@dataclass(frozen=True)
class Strip:
    """Some rows of a map, and how many rows of zeros lie around them.

    Attributes:
        start: first row.
        stop: row behind the last one.
        above: rows of zeros above, where the strip is the first one.
        below: rows of zeros below, where it is the last one.
    """

    start: int
    stop: int
    above: int = 0
    below: int = 0


def cut_rows(side: int, *, row_bytes: int, kernel: int = 1, stride: int = 1, padding: int = 0) -> list[Strip]:
    """Cut a map into strips of rows; a convolution makes a strip of its output from each.

    Strips overlap by the kernel's border.

    Args:
        side: rows of the map.
        row_bytes: of the widest map that is computed from the strip.
        kernel: rows of the convolution's kernel; 1 without a convolution.
        stride: its stride.
        padding: its rows of zeros on either side.
    """
    outputs = (side + 2 * padding - kernel) // stride + 1
    count = min(outputs, -(-side * row_bytes // STRIP_BYTES))
    rows = -(-outputs // count)
    strips = []
    for first in range(0, outputs, rows):
        start = first * stride - padding
        stop = (min(first + rows, outputs) - 1) * stride - padding + kernel
        strips.append(Strip(max(start, 0), min(stop, side), max(-start, 0), max(stop - side, 0)))
    return strips


def write_strips(graph: Graph, maps: str, strips: list[Strip], write: Callable[[str, Strip], str]) -> str:
    """Write what is made of each strip of [1, h, w, C], and join the results.

    Args:
        graph: it grows.
        maps: [1, h, w, C].
        strips: of its rows.
        write: from a strip to rows of the result.

    Returns:
        [1, h', w', C'].
    """
    if len(strips) == 1:
        return write(maps, strips[0])
    axis, parts = graph.constant([1], np.int64), []
    for strip in strips:
        ends = (graph.constant([row], np.int64) for row in (strip.start, strip.stop))
        parts.append(write(graph.add("Slice", maps, *ends, axis), strip))
    return graph.add("Concat", *parts, axis=1)
