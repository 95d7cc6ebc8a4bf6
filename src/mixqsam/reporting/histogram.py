"""Draw how many prompts agree at which IoU, as SVG in the page's colours; each bar has a tooltip."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

# Bars of equal width from IoU 0 to 1.
BINS = 20
_WIDTH, _HEIGHT = 720, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 12, 40


def count_ious(ious: Sequence[float]) -> list[int]:
    """Count IoUs in the bins; 1 belongs to the last one."""
    counts = [0] * BINS
    for iou in ious:
        counts[min(BINS - 1, max(0, int(iou * BINS)))] += 1
    return counts


def histogram_svg(models: Mapping[str, Sequence[int]]) -> str:
    """Draw the counts of one or more models, the bars of a bin beside each other.

    Args:
        models: kind (`uniform` or `mixed`) → number of prompts in each bin.
    """
    most = max((max(counts) for counts in models.values()), default=0) or 1
    parts = [
        f'<svg class="scatter" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Prompts by their IoU with the float masks">',
        *_draw_frame(most),
        *_draw_bars(models, most),
    ]
    return "".join([*parts, "</svg>"])


def _draw_frame(most: int) -> Iterable[str]:
    bottom = _HEIGHT - _BOTTOM
    for count in sorted({0, most // 2, most}):
        y = _at_y(count, most)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}">{count}</text>'
    for step in range(6):
        yield f'<text class="block" x="{_at_x(step / 5):.1f}" y="{bottom + 16}">{step / 5:g}</text>'
    yield f'<text class="block" x="{(_LEFT + _WIDTH - _RIGHT) / 2:g}" y="{_HEIGHT - 6}">IoU with the float mask</text>'
    middle = (_TOP + bottom) / 2
    yield f'<text class="block" transform="rotate(-90 14 {middle:g})" x="14" y="{middle:g}">prompts</text>'


def _draw_bars(models: Mapping[str, Sequence[int]], most: int) -> Iterable[str]:
    bottom = _HEIGHT - _BOTTOM
    width = (_WIDTH - _LEFT - _RIGHT) / BINS
    bar = (width - 4) / max(1, len(models))
    for place, (kind, counts) in enumerate(models.items()):
        for index, count in enumerate(counts):
            x, y = _at_x(index / BINS) + 2 + place * bar, _at_y(count, most)
            words = escape(f"{kind}: {count} prompts with IoU {index / BINS:.2f} to {(index + 1) / BINS:.2f}")
            if count:
                yield (
                    f'<rect class="{escape(kind)}" x="{x:.1f}" y="{y:.1f}" width="{bar - 1:.1f}" '
                    f'height="{bottom - y:.1f}"><title>{words}</title></rect>'
                )


def _at_x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _at_y(count: int, most: int) -> float:
    return _HEIGHT - _BOTTOM - count / most * (_HEIGHT - _TOP - _BOTTOM)
