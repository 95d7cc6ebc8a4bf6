"""A network's bits as a picture (SVG in the page's colours): one column for each unit, in the order of the data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixqsam.plan import FLOAT_BITS, Analysis, BitPlan, Unit, Vector
from mixqsam.reporting.shares import unit_shares

_STEP = 8
_LEFT = 96
_BIT = 8
_GAP = 20
_TOP = 30
# Importance below this share of the largest is drawn as nothing: the lane is logarithmic.
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
    """What is told of every unit, in the order of the data: bits, parameters, multiply-adds, importance and its rank.

    Where importance was not measured, what `unit_shares` gives stands in its place; `measure` says what it is.

    Args:
        analysis: what was measured.
        plan: the bits.
        objective: of the allocation, which says whose importance counts; None for the first that was measured.
    """
    measure, share = unit_shares(analysis, objective) or (None, np.zeros(len(analysis.units)))
    synergy = measured_synergy(analysis, objective)
    rank = ranks(share)
    return [
        {
            "name": unit.name,
            "short": _short(unit),
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


def ranks(share: Vector) -> NDArray[np.int64]:
    """The rank of each unit, the largest first."""
    rank = np.empty(len(share), dtype=np.int64)
    rank[np.argsort(-share, kind="stable")] = np.arange(1, len(share) + 1)
    return rank


def measured_synergy(analysis: Analysis, objective: Mapping[str, Any] | None) -> Vector:
    """The synergy that an objective looks at, [units - 1]; empty if none was measured."""
    wanted = f"{(objective or {}).get('synergy')}/{(objective or {}).get('output')}"
    nothing: Vector = np.zeros(0)
    return analysis.synergy.get(wanted, next(iter(analysis.synergy.values()), nothing))


def network_svg(facts: Sequence[Mapping[str, Any]]) -> str:
    """The picture: lanes of weight bits, activation bits, importance and synergy; each column tells itself on hover."""
    full = 8 * _BIT
    weights = _Lane("weights", _TOP, full)
    activations = _Lane("activations", weights.bottom + _GAP, full)
    importance, synergy = _measured_lanes(facts, top=activations.bottom + _GAP)
    width, height = _LEFT + _STEP * len(facts) + 8, synergy.bottom + 8
    parts = [
        f'<svg class="network" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" aria-label="Bits of every unit along the network">',
        *_sections(facts, bottom=synergy.bottom),
    ]
    for lane in (weights, activations):
        parts += _scale(lane, width)
    for lane in (lane for lane in (importance, synergy) if lane.height):
        parts.append(f'<text class="lane" x="4" y="{lane.bottom - lane.height / 2 + 4:g}">{lane.title}</text>')
        parts.append(f'<line class="base" x1="{_LEFT}" x2="{width}" y1="{lane.bottom:g}" y2="{lane.bottom:g}"/>')
    peak = max((one["importance"] for one in facts), default=1.0) or 1.0
    strongest = max((one["synergy"] or 0.0 for one in facts), default=0.0) or 1.0
    for index, one in enumerate(facts):
        x = _LEFT + index * _STEP
        share = one["importance"] / peak
        level = max(0.0, 1 + np.log10(max(share, 1e-12)) / _DECADES)
        bars = [
            _bits_bar(x, weights, one["weight"]),
            _bits_bar(x, activations, one["activation"]),
            _bar(x + 1, importance, level, "importance", _STEP - 2),
        ]
        if one["synergy"] is not None:
            bars.append(_bar(x + _STEP - 2, synergy, max(0.0, one["synergy"]) / strongest, "synergy", 4))
        words = escape(describe(one))
        parts.append(
            f'<g class="unit" data-words="{words}"><title>{words}</title>{"".join(bars)}'
            f'<rect class="hit" x="{x}" y="{_TOP}" width="{_STEP}" height="{synergy.bottom - _TOP:g}"/></g>'
        )
    return "".join([*parts, "</svg>"])


def _measured_lanes(facts: Sequence[Mapping[str, Any]], *, top: float) -> tuple[_Lane, _Lane]:
    """Lanes of what was measured of units and of neighbours; one of no height where nothing was."""
    measure = facts[0]["measure"] if facts else None
    # The margin has room for one word; the rest of a longer name is told on hover.
    share = _Lane((measure or "").split(" at ")[0], top, 56 if measure else 0)
    has_synergy = any(one["synergy"] is not None for one in facts)
    return share, _Lane("synergy", share.bottom + (_GAP if has_synergy else 0), 32 if has_synergy else 0)


def describe(one: Mapping[str, Any]) -> str:
    """A unit in one line."""
    words = [
        f"{one['name']} ({one['kind']}): {_bits(one['weight'], 'W')} {_bits(one['activation'], 'A')}",
        f"{one['parameters']:,} parameters" if one["parameters"] else "product of two activations",
        f"{one['multiply_adds'] / 1e6:,.1f} M multiply-adds",
    ]
    if one["measure"] is not None:
        words.append(f"{one['measure']} {one['importance']:.4f}, rank {one['rank']}")
    if one["synergy"] is not None:
        words.append(f"synergy with the next {one['synergy']:.3g}")
    return " · ".join(words)


def _bits(bits: int, letter: str) -> str:
    return f"{letter} float" if bits == FLOAT_BITS else f"{letter}{bits}"


def _short(unit: Unit) -> str:
    """The unit's name without what its section says already."""
    return ".".join(unit.name.split(".")[-2:])


def _sections(facts: Sequence[Mapping[str, Any]], *, bottom: float) -> Iterable[str]:
    """Alternating grounds behind the blocks, each with its label."""
    start = 0
    names = [str(one["block"]) for one in facts]
    count = 0
    for index in range(1, len(names) + 1):
        if index < len(names) and names[index] == names[start]:
            continue
        x, width = _LEFT + start * _STEP, (index - start) * _STEP
        shade = "odd" if count % 2 else "even"
        yield f'<rect class="{shade}" x="{x}" y="{_TOP - 4}" width="{width}" height="{bottom - _TOP + 8:g}"/>'
        yield f'<text class="block" x="{x + width / 2:g}" y="{_TOP - 10}">{escape(names[start])}</text>'
        start, count = index, count + 1


def _scale(lane: _Lane, width: float) -> Iterable[str]:
    yield f'<text class="lane" x="4" y="{lane.top + lane.height / 2 + 4:g}">{lane.title}</text>'
    for bits in (0, 2, 4, 6, 8):
        y = lane.bottom - bits * _BIT
        yield f'<line class="{"grid" if bits else "base"}" x1="{_LEFT}" x2="{width}" y1="{y:g}" y2="{y:g}"/>'
        if bits:
            yield f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:g}">{bits}</text>'


def _bits_bar(x: float, lane: _Lane, bits: int) -> str:
    return _bar(x + 1, lane, min(bits, 8) / 8, f"b{bits}", _STEP - 2)


def _bar(x: float, lane: _Lane, share: float, kind: str, width: float) -> str:
    height = share * lane.height
    return f'<rect class="{kind}" x="{x:g}" y="{lane.bottom - height:.1f}" width="{width:g}" height="{height:.1f}"/>'
