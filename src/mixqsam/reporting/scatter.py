"""Draw quality against size as SVG in the page's colours; each point has a tooltip."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.ticker import MaxNLocator

_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 16, 44
# Labels that are nearer than this would overlap.
_MIN_LABEL_DISTANCE = 14


@dataclass(frozen=True)
class Point:
    """A model in the picture.

    Attributes:
        label: name of the model.
        kind: `float`, `uniform` or `mixed`, which selects the mark.
        size: bytes.
        quality: value on the y axis.
    """

    label: str
    kind: str
    size: float
    quality: float


@dataclass(frozen=True)
class Level:
    """A quality that is drawn as a line, and its name."""

    name: str
    quality: float


@dataclass(frozen=True)
class _Axes:
    """Maps values to positions in the picture."""

    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, point: Point) -> tuple[float, float]:
        return self.at_x(point.size / 1e6), self.at_y(point.quality)

    def at_x(self, value: float) -> float:
        return _LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (_WIDTH - _LEFT - _RIGHT)

    def at_y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (_HEIGHT - _TOP - _BOTTOM)


def frontier(points: Sequence[Point]) -> list[Point]:
    """The Pareto frontier of size and quality, by size."""
    best: list[Point] = []
    for point in sorted(points, key=lambda candidate: (candidate.size, -candidate.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best


def scatter_svg(points: Sequence[Point], *, level: Level | None, quality: str) -> str:
    """Draw the picture.

    Args:
        points: quantized models.
        level: a quality to compare with, drawn as a line.
        quality: name of the y axis.
    """
    heights = [point.quality for point in points] + ([] if level is None else [level.quality])
    axes = _Axes(_find_span([point.size / 1e6 for point in points]), _find_span(heights))
    xs, ys = _find_ticks(axes.x), _find_ticks(axes.y)
    parts = [
        f'<svg class="scatter" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(quality)} against size">',
        *_draw_frame(axes, xs, ys, quality),
    ]
    if level is not None:
        y = axes.at_y(level.quality)
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{y - 5:.1f}">{escape(level.name)}</text>')
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(axes.place, frontier(points)))
    parts.append(f'<polyline class="frontier" points="{line}"/>')
    return "".join([*parts, *_draw_points(points, axes), "</svg>"])


def _find_span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max((high - low) * 0.1, abs(high) * 0.01, 1e-6)
    return low - room, high + room


def _find_ticks(span: tuple[float, float]) -> list[float]:
    return [float(tick) for tick in MaxNLocator(6).tick_values(*span) if span[0] <= tick <= span[1]]


def _draw_frame(axes: _Axes, xs: Sequence[float], ys: Sequence[float], quality: str) -> Iterable[str]:
    bottom = _HEIGHT - _BOTTOM
    for value in xs:
        x = axes.at_x(value)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>'
        yield f'<text class="block" x="{x:.1f}" y="{bottom + 16}">{value:g}</text>'
    for value in ys:
        y = axes.at_y(value)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}">{value:g}</text>'
    yield f'<text class="block" x="{(_LEFT + _WIDTH - _RIGHT) / 2:g}" y="{_HEIGHT - 6}">size, MB</text>'
    middle = (_TOP + bottom) / 2
    yield f'<text class="block" transform="rotate(-90 14 {middle:g})" x="14" y="{middle:g}">{escape(quality)}</text>'


def _draw_points(points: Sequence[Point], axes: _Axes) -> Iterable[str]:
    labelled: list[tuple[float, float]] = []
    for point in points:
        x, y = axes.place(point)
        description = escape(f"{point.label}: {point.size / 1e6:.2f} MB, {point.quality:.4g}")
        yield f'<circle class="{point.kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{description}</title></circle>'
        has_room = all(
            abs(y - other_y) > _MIN_LABEL_DISTANCE or abs(x - other_x) > 110 for other_x, other_y in labelled
        )
        if has_room:
            labelled.append((x, y))
            is_at_right = x > _WIDTH - 150
            place = f'x="{x + 6:.1f}" text-anchor="end"' if is_at_right else f'x="{x - 6:.1f}" text-anchor="start"'
            yield f'<text class="label" {place} y="{y + 14:.1f}">{escape(point.label)}</text>'
