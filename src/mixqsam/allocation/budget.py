"""Parse budgets and fixed bits; turn them into limits of one model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from mixqsam.allocation.latency import LatencyLimit, parse_latency
from mixqsam.allocation.quality import QualityTarget, parse_quality
from mixqsam.errors import BudgetError
from mixqsam.plan import FLOAT, UNIT_BITS, BitPlan, Costs, UnitBits, matches

HELP = (
    "W4A4 (as large and as costly as that uniform model), 12.5MB or size=12.5MB, bitops=3.2T, "
    "0.2x or size=0.2x (of the float model's size), bitops=0.03x; several limits, separated by commas, hold together; "
    "latency<=0.6s@openvino or latency<=0.5x@onnx (on this machine; x is a share of the float model's latency); "
    "iou>=0.98 or ap>=0.97x (the smallest model that keeps this quality); uniform:W4A4 gives all units the same bits"
)
_SHORT_HELP = "W4A4, 12.5MB, 0.2x, bitops=3T, bitops=0.03x, iou>=0.98 or uniform:W4A4"
_UNIFORM = "uniform:"
_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30}
_UNIT_NAMES = {"size": "b|bytes?", "bitops": "bitops|bops"}
# A number without a unit below this cannot mean BitOps.
_FEWEST_BITOPS = 1e6

Quantity = Literal["size", "bitops"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """The limits that a budget sets for one model.

    Attributes:
        text: the budget as the user wrote it, or the bits of a uniform model.
        size: bytes of the file, scales and float tensors included; None for no limit.
        bitops: BitOps per image; None for no limit.
        latency: predicted seconds of an image with its prompts; None for no limit.
        backend: where the latency is limited; empty without a limit.
    """

    text: str
    size: float | None
    bitops: float | None
    latency: float | None = None
    backend: str = ""


@dataclass(frozen=True)
class Amount:
    """A limit of one quantity.

    Attributes:
        quantity: limited quantity.
        value: bytes or BitOps, or a share of the float model's.
        is_share: whether `value` is such a share.
    """

    quantity: Quantity
    value: float
    is_share: bool = False

    def limits(self, costs: Costs, fixed: Mapping[str, UnitBits]) -> tuple[float | None, float | None]:
        """Maximum bytes and BitOps; None for a quantity without a limit."""
        del fixed
        plan = costs.float_plan
        float_cost = costs.size(plan) if self.quantity == "size" else float(costs.bitops(plan))
        value = self.value * float_cost if self.is_share else self.value
        return (value, None) if self.quantity == "size" else (None, value)


@dataclass(frozen=True)
class UniformCosts:
    """A limit of both quantities: the costs of a uniform model.

    Attributes:
        bits: of that model. Units that are kept in float are float in it too. Other kept bits do not count.
    """

    bits: UnitBits

    def limits(self, costs: Costs, fixed: Mapping[str, UnitBits]) -> tuple[float | None, float | None]:
        """Bytes and BitOps of the uniform model."""
        in_float = {name: bits for name, bits in fixed.items() if bits.is_float}
        plan = BitPlan({**BitPlan.uniform(costs.units, self.bits).bits, **in_float})
        return costs.size(plan), float(costs.bitops(plan))


@dataclass(frozen=True)
class Budget:
    """Limits of a quantized model's costs.

    Attributes:
        text: as the user wrote it.
        terms: limits that hold together; empty for a uniform budget.
        uniform: the bits of all units; None where the bits are chosen.
        quality: the quality that the smallest model within the limits keeps; None for the best within the limits.
        latency: a limit that holds together with `terms`; None for none.
    """

    text: str
    terms: tuple[Amount | UniformCosts, ...] = ()
    uniform: UnitBits | None = None
    quality: QualityTarget | None = None
    latency: LatencyLimit | None = None

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: "str | Budget") -> "Budget":
        """Parse a user's text (see `HELP`); a budget is returned unchanged.

        Raises:
            BudgetError: the text cannot be understood; the message suggests what may be meant.
        """
        if isinstance(text, Budget):
            return text
        written = text.strip()
        if written.lower().startswith(_UNIFORM):
            return cls(written, uniform=_parse_uniform(written[len(_UNIFORM) :].strip(), written))
        parts = [part.strip() for part in written.split(",")]
        latencies = {part: parse_latency(part) for part in parts}
        rest = [part for part, limit in latencies.items() if limit is None]
        qualities = {part: parse_quality(part) for part in rest}
        return cls(
            written,
            terms=tuple(_parse_term(part) for part in rest if qualities[part] is None),
            quality=_find_only(list(qualities.values()), written, what="targets of quality"),
            latency=_find_only(list(latencies.values()), written, what="limits of the latency"),
        )

    @property
    def limits_activations(self) -> bool:
        """Whether bits of activations count: in BitOps, in a latency, or as uniform bits."""
        counted = any(isinstance(term, UniformCosts) or term.quantity == "bitops" for term in self.terms)
        return counted or self.latency is not None or self.uniform is not None

    def with_size(self, size: float) -> "Budget":
        """The budget with a limit of the size in bytes in place of its quality."""
        return replace(self, terms=(*self.terms, Amount("size", size)), quality=None)

    def limits(self, costs: Costs, *, fixed: Mapping[str, UnitBits] | None = None) -> Limits:
        """Limits of one model; `fixed` holds the bits of units whose bits are not chosen.

        The limits of a uniform budget are the costs of its model, fixed units included.

        Raises:
            BudgetError: the latency is limited, and the costs hold no times of that backend.
        """
        if self.uniform is not None:
            plan = self.uniform_plan(costs, fixed=fixed)
            return Limits(str(self.uniform), costs.size(plan), float(costs.bitops(plan)))
        pairs = [term.limits(costs, fixed or {}) for term in self.terms]
        size, bitops = (_tightest(values) for values in zip(*pairs, strict=True)) if pairs else (None, None)
        if self.latency is None:
            return Limits(self.text, size, bitops)
        return Limits(self.text, size, bitops, self.latency.seconds(costs), self.latency.backend)

    def uniform_plan(self, costs: Costs, *, fixed: Mapping[str, UnitBits] | None = None) -> BitPlan:
        """The plan of a uniform budget, in which fixed units keep their own bits."""
        if self.uniform is None:
            raise BudgetError(f"The budget {self.text!r} is not uniform; give uniform:W4A4, for example.")
        return BitPlan({**BitPlan.uniform(costs.units, self.uniform).bits, **(fixed or {})})


def parse_bits(text: str) -> UnitBits:
    """Parse `W4A6`, `8` (both), or `float`.

    Raises:
        BudgetError: the text is none of these, or the bits are not 2 to 8 or 16.
    """
    cleaned = text.strip().lower()
    if cleaned in {"float", "32", "w32a32"}:
        return FLOAT
    match = re.fullmatch(r"w(\d{1,3})[\s/_-]*a(\d{1,3})|(\d{1,3})", cleaned)
    if not match:
        raise BudgetError(
            f"{text!r:.60} is not a bit-width; {_suggest_bits(cleaned) or 'write W4A6, 8 (both) or float.'}"
        )
    bits = UnitBits(int(match[1] or match[3]), int(match[2] or match[3]))
    if not {bits.weight, bits.activation} <= set(UNIT_BITS):
        raise BudgetError(f"{text!r:.60}: bit-widths go from 2 to 8, or are 16.")
    return bits


def _parse_uniform(text: str, written: str) -> UnitBits:
    """Parse the bits of a uniform budget, which names those of weights and of activations."""
    if re.fullmatch(r"(?i)w\d+[\s/_-]*a\d+", text):
        return parse_bits(text)
    cleaned = text.lower()
    suggestion = _suggest_bits(f"w{cleaned}" if cleaned.isdigit() else cleaned).replace("mean ", "mean uniform:")
    if not suggestion:
        suggestion = "write the bits of weights and activations, e.g. uniform:W4A4."
        if re.match(r"\.?\d|size|bitops", cleaned):
            suggestion += f" A size or BitOps leave the bits open: write --budget {text:.40} for mixed bits."
    raise BudgetError(f"Budget {written!r:.60} cannot be understood; {suggestion}")


def split_rule(rule: str) -> tuple[str, UnitBits]:
    """Split `PATTERN=BITS` into the pattern and the bits.

    Raises:
        BudgetError: the rule is malformed.
    """
    pattern, equals, bits = rule.partition("=")
    if not equals or not pattern:
        raise BudgetError(f"--keep {rule!r:.60}: write PATTERN=BITS, e.g. 'neck.*=8' or 'layers.0.*=float'.")
    return pattern, parse_bits(bits)


def parse_keep(rules: Sequence[str], *, names: Sequence[str]) -> dict[str, UnitBits]:
    """Parse rules such as `neck.*=8`, `*.av=W8A8` or `layers.0.*=float`; later rules win.

    Returns:
        unit name → its bits, for the units that a rule matches.

    Raises:
        BudgetError: a rule is malformed, or matches no unit.
    """
    fixed: dict[str, UnitBits] = {}
    for rule in rules:
        pattern, bits = split_rule(rule)
        matching = [name for name in names if matches(name, pattern)]
        if not matching:
            raise BudgetError(f"--keep {rule!r:.60}: no unit matches {pattern!r:.60}; a unit name is {names[0]}.")
        fixed.update(dict.fromkeys(matching, bits))
    return fixed


def _find_only(found: Sequence[_T | None], written: str, *, what: str) -> _T | None:
    """Find the one value that is not None.

    Raises:
        BudgetError: there are several.
    """
    values = [value for value in found if value is not None]
    if len(values) > 1:
        raise BudgetError(f"Budget {written!r:.60} has several {what}; give one of them.")
    return values[0] if values else None


def _tightest(values: Sequence[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _parse_term(text: str) -> Amount | UniformCosts:
    if re.fullmatch(r"(?i)w\d+[\s/_-]*a\d+", text):
        return UniformCosts(parse_bits(text))
    quantity, equals, amount = text.rpartition("=")
    quantity = quantity.strip().lower() if equals else "size"
    if quantity == "size":
        return _parse_amount(amount, text, quantity="size")
    if quantity == "bitops":
        return _parse_amount(amount, text, quantity="bitops")
    raise BudgetError(f"Budget {text!r:.60} cannot be understood; write {_SHORT_HELP}.")


def _parse_amount(text: str, term: str, *, quantity: Quantity) -> Amount:
    cleaned = text.strip().lower()
    unit = _UNIT_NAMES[quantity]
    pattern = rf"(\d+(?:\.\d+)?|\.\d+)(e\d+)?\s*(?:(x)|(%)|(ki|mi|gi|[kmgtp])(?:{unit})?|({unit}))?"
    match = re.fullmatch(pattern, cleaned)
    value = float(match[1] + (match[2] or "")) if match else 0.0
    if not match or not 0 < value < float("inf"):
        suggestion = _suggest_bits(cleaned) or f"write {_SHORT_HELP}."
        raise BudgetError(f"Budget {term!r:.60} cannot be understood; {suggestion}")
    if not any(match.groups()[2:]) and (quantity == "size" or value < _FEWEST_BITOPS):
        raise BudgetError(
            f"Budget {term!r:.60} is a number without a unit; did you mean {_suggest_amount(value, quantity)}?"
        )
    if match[3] or match[4]:
        return Amount(quantity, value / (100 if match[4] else 1), is_share=True)
    return Amount(quantity, value * _PREFIXES[match[5] or ""])


def _suggest_amount(value: float, quantity: Quantity) -> str:
    """What a number without a unit is likely to mean."""
    if value <= 1:
        prefix = "" if quantity == "size" else "bitops="
        return f"{prefix}{value:g}x (of the float model's)"
    if quantity == "bitops":
        return f"bitops={value:g}G or bitops={value:g}T"
    if value in UNIT_BITS:
        return f"W{value:g}A{value:g} ({value:g} bits everywhere) or {value:g}MB"
    return f"{value:g}MB" if value < _FEWEST_BITOPS else f"{value / 1e6:g}MB"


def _suggest_bits(text: str) -> str:
    """What `w4`, `4bit` or `int8` is likely to mean; empty for other texts."""
    match = re.fullmatch(r"(?:w|a|u?int)\s*-?(\d{1,2})|(\d{1,2})\s*-?\s*bits?", text)
    bits = int(match[1] or match[2]) if match else 0
    if bits in UNIT_BITS:
        return f"did you mean W{bits}A{bits}?"
    return "bit-widths go from 2 to 8, or are 16; e.g. W4A4." if bits else ""
