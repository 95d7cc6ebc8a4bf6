"""Draw a network's bits as SVG in the page's colours: one column for each unit, in the order of execution."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixqsam.measurements import Analysis
from mixqsam.plan import FLOAT_BITS, BitPlan, Unit, Vector
from mixqsam.reporting.shares import unit_shares

_COLUMN = 8
_LEFT = 96
_BIT_HEIGHT = 8
_GAP = 20
_TOP = 30
# Width of a letter of a block's label, with some space.
_LETTER = 6.5
# The lane of importance is logarithmic over these decades; lower values have height 0.
_DECADES = 4.0


@dataclass(frozen=True)
class _Lane:
    """A row of the picture: its title, its upper edge and its height."""

    title: str
    top: float
    height: float

    @property
    def bottom(self) -> float:
        return self.top + self.height


def unit_facts(analysis: Analysis, plan: BitPlan, objective: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Facts of every unit, in the order of execution: bits, parameters, multiply-adds, importance and its rank.

    Without a measured importance, `importance` holds the shares of `unit_shares`; `measure` names the quantity.

    Args:
        analysis: importance, synergy and sensitivities of the units.
        plan: the bits.
        objective: objective of the allocation, which selects the importance; None for the first in the analysis.
    """
    measure, share = unit_shares(analysis, objective) or (None, np.zeros(len(analysis.units)))
    synergy = select_synergy(analysis, objective)
    rank = rank_units(share)
    return [
        {
            "name": unit.name,
            "short": _shorten(unit),
            "kind": unit.kind,
            "part": unit.part,
            "block": unit.block,
            "weight": plan.bits[unit.name].weight,
            "activation": plan.bits[unit.name].activation,
            "parameters": unit.parameters,
            "multiply_adds": analysis.costs.multiply_adds(unit),
            "measure": measure,
            "importance": float(share[i]),
            "rank": int(rank[i]),
            "synergy": float(synergy[i]) if i < len(synergy) else None,
        }
        for i, unit in enumerate(analysis.units)
    ]


def rank_units(share: Vector) -> NDArray[np.int64]:
    """The rank of each unit; the largest share has rank 1."""
    rank = np.empty(len(share), dtype=np.int64)
    rank[np.argsort(-share, kind="stable")] = np.arange(1, len(share) + 1)
    return rank


def select_synergy(analysis: Analysis, objective: Mapping[str, Any] | None) -> Vector:
    """Select the synergy of an objective, [units - 1]; empty if the analysis has none."""
    synergy_name = f"{(objective or {}).get('synergy')}/{(objective or {}).get('output')}"
    empty: Vector = np.zeros(0)
    return analysis.synergy.get(synergy_name, next(iter(analysis.synergy.values()), empty))


def network_svg(facts: Sequence[Mapping[str, Any]]) -> str:
    """Draw lanes of weight bits, activation bits, importance and synergy; each column has a tooltip."""
    bits_height = 8 * _BIT_HEIGHT
    weights = _Lane("weights", _TOP, bits_height)
    activations = _Lane("activations", weights.bottom + _GAP, bits_height)
    importance, synergy = _make_measure_lanes(facts, top=activations.bottom + _GAP)
    width, height = _LEFT + _COLUMN * len(facts) + 8, synergy.bottom + 8
    parts = [
        f'<svg class="network" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" aria-label="Bits of every unit along the network">',
        *_draw_blocks(facts, bottom=synergy.bottom),
    ]
    for lane in (weights, activations):
        parts += _draw_scale(lane, width)
    for lane in (lane for lane in (importance, synergy) if lane.height):
        parts.append(f'<text class="lane" x="4" y="{lane.bottom - lane.height / 2 + 4:g}">{lane.title}</text>')
        parts.append(f'<line class="base" x1="{_LEFT}" x2="{width}" y1="{lane.bottom:g}" y2="{lane.bottom:g}"/>')
    peak = max((fact["importance"] for fact in facts), default=1.0) or 1.0
    strongest = max((fact["synergy"] or 0.0 for fact in facts), default=0.0) or 1.0
    for index, fact in enumerate(facts):
        x = _LEFT + index * _COLUMN
        share = fact["importance"] / peak
        level = max(0.0, 1 + np.log10(max(share, 1e-12)) / _DECADES)
        bars = [
            _draw_bits(x, weights, fact["weight"]),
            _draw_bits(x, activations, fact["activation"]),
            _draw_bar(x + 1, importance, level, "importance", _COLUMN - 2),
        ]
        if fact["synergy"] is not None:
            bars.append(_draw_bar(x + _COLUMN - 2, synergy, max(0.0, fact["synergy"]) / strongest, "synergy", 4))
        description = escape(describe(fact))
        parts.append(
            f'<g class="unit" data-words="{description}"><title>{description}</title>{"".join(bars)}'
            f'<rect class="hit" x="{x}" y="{_TOP}" width="{_COLUMN}" height="{synergy.bottom - _TOP:g}"/></g>'
        )
    return "".join([*parts, "</svg>"])


def _make_measure_lanes(facts: Sequence[Mapping[str, Any]], *, top: float) -> tuple[_Lane, _Lane]:
    """Lanes of the units' measure and of the synergy; a lane without measurements has height 0."""
    measure = facts[0]["measure"] if facts else None
    # The margin has room for one word; the tooltip has the whole name.
    share = _Lane((measure or "").split(" at ")[0], top, 56 if measure else 0)
    has_synergy = any(fact["synergy"] is not None for fact in facts)
    return share, _Lane("synergy", share.bottom + (_GAP if has_synergy else 0), 32 if has_synergy else 0)


def describe(fact: Mapping[str, Any]) -> str:
    """Describe a unit in one line."""
    words = [
        f"{fact['name']} ({fact['kind']}): {_format_bits(fact['weight'], 'W')} {_format_bits(fact['activation'], 'A')}",
        f"{fact['parameters']:,} parameters" if fact["parameters"] else "product of two activations",
        f"{fact['multiply_adds'] / 1e6:,.1f} M multiply-adds",
    ]
    if fact["measure"] is not None:
        words.append(f"{fact['measure']} {fact['importance']:.4f}, rank {fact['rank']}")
    if fact["synergy"] is not None:
        words.append(f"synergy with the next unit {fact['synergy']:.3g}")
    return " · ".join(words)


def _format_bits(bits: int, letter: str) -> str:
    return f"{letter} float" if bits == FLOAT_BITS else f"{letter}{bits}"


def _shorten(unit: Unit) -> str:
    """The unit's name without that of its block."""
    return ".".join(unit.name.split(".")[-2:])


def _draw_blocks(facts: Sequence[Mapping[str, Any]], *, bottom: float) -> Iterable[str]:
    """Draw alternating backgrounds of the blocks, each with its label; one that would meet another stands higher."""
    start, end = 0, 0.0
    names = [str(fact["block"]) for fact in facts]
    count = 0
    for index in range(1, len(names) + 1):
        if index < len(names) and names[index] == names[start]:
            continue
        x, width = _LEFT + start * _COLUMN, (index - start) * _COLUMN
        shade = "odd" if count % 2 else "even"
        yield f'<rect class="{shade}" x="{x}" y="{_TOP - 4}" width="{width}" height="{bottom - _TOP + 8:g}"/>'
        middle, half = x + width / 2, len(names[start]) * _LETTER / 2
        is_free = middle - half > end
        end = middle + half if is_free else end
        yield f'<text class="block" x="{middle:g}" y="{_TOP - (10 if is_free else 21)}">{escape(names[start])}</text>'
        start, count = index, count + 1


def _draw_scale(lane: _Lane, width: float) -> Iterable[str]:
    yield f'<text class="lane" x="4" y="{lane.top + lane.height / 2 + 4:g}">{lane.title}</text>'
    for bits in (0, 2, 4, 6, 8):
        y = lane.bottom - bits * _BIT_HEIGHT
        yield f'<line class="{"grid" if bits else "base"}" x1="{_LEFT}" x2="{width}" y1="{y:g}" y2="{y:g}"/>'
        if bits:
            yield f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:g}">{bits}</text>'


def _draw_bits(x: float, lane: _Lane, bits: int) -> str:
    return _draw_bar(x + 1, lane, min(bits, 8) / 8, f"b{bits}", _COLUMN - 2)


def _draw_bar(x: float, lane: _Lane, share: float, kind: str, width: float) -> str:
    height = share * lane.height
    return f'<rect class="{kind}" x="{x:g}" y="{lane.bottom - height:.1f}" width="{width:g}" height="{height:.1f}"/>'
