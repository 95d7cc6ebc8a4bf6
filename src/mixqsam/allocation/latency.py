"""Parse limits of the latency, the part of a budget that was measured on this machine."""

import math
import re
from dataclasses import dataclass

from mixqsam.errors import BudgetError
from mixqsam.options.names import BACKEND_NAMES
from mixqsam.plan import Costs

EXAMPLE = "latency<=0.6s@openvino"
_SHARE_EXAMPLE = "latency<=0.5x@openvino"
_SECONDS = {"s": 1.0, "ms": 1e-3}
# No image takes longer than an hour; a larger number is a slip.
_MOST_SECONDS = 3600.0


@dataclass(frozen=True)
class LatencyLimit:
    """The most time that an image takes in a backend, with the prompts that the BitOps count.

    Attributes:
        backend: name of the backend.
        value: seconds, or a share of the float model's latency in the same backend.
        is_share: whether `value` is such a share.
    """

    backend: str
    value: float
    is_share: bool = False

    def __str__(self) -> str:
        return f"latency<={self.value:g}{'x' if self.is_share else 's'}@{self.backend}"

    def seconds(self, costs: Costs) -> float:
        """The limit in seconds.

        Raises:
            BudgetError: the times of the units were not measured in this backend.
        """
        if costs.times is None or costs.times.backend != self.backend:
            raise BudgetError(
                f"The budget {self} needs the times of the model's units with {self.backend} on this machine. Measure "
                f"them with `mixqsam benchmark MODEL --units --backends {self.backend}`."
            )
        return self.value * costs.latency(costs.float_plan) if self.is_share else self.value


def parse_latency(text: str) -> LatencyLimit | None:
    """Parse a limit such as `latency<=0.6s@openvino` or `latency<=0.5x@onnx`; None for another term of a budget.

    Raises:
        BudgetError: it is a limit of the latency that cannot be understood or met.
    """
    match = re.match(r"latency\s*(>=|≥|<=|≤|=>|=<|==|>|<|=|$)\s*(.*)", text.strip().lower())
    if match is None:
        return None
    comparison, rest = match.groups()
    if not comparison:
        raise BudgetError(
            f"Budget {text!r:.60} names no time. A shell takes < for a file unless the budget stands in quotes: "
            f'--budget "{EXAMPLE}".'
        )
    amount, _, backend = (part.strip() for part in rest.partition("@"))
    number = re.fullmatch(r"(-?(?:\d+(?:\.\d*)?|\.\d+)(?:e-?\d+)?)\s*(s|ms|x|%)?", amount)
    if number is None:
        raise BudgetError(f"Budget {text!r:.60} cannot be understood; write {EXAMPLE} or {_SHARE_EXAMPLE}.")
    if comparison not in {"<=", "≤"}:
        raise BudgetError(
            f"Budget {text!r:.60}: a latency is a maximum; did you mean latency<={amount}@{backend or 'openvino'}?"
        )
    return _make_limit(text, float(number[1]), unit=number[2] or "", backend=backend)


def _make_limit(text: str, value: float, *, unit: str, backend: str) -> LatencyLimit:
    """Check value, unit and backend."""
    if not unit:
        raise BudgetError(
            f"Budget {text!r:.60} is a number without a unit; write {value:g}s, {value:g}ms, or a share of the float "
            f"model's latency such as 0.5x."
        )
    known = ", ".join(BACKEND_NAMES)
    if not backend:
        raise BudgetError(f"Budget {text!r:.60} names no backend ({known}); write for example {EXAMPLE}.")
    if backend not in BACKEND_NAMES:
        raise BudgetError(f"Budget {text!r:.60}: the backend {backend!r:.40} is unknown; choose {known}.")
    if value <= 0 or not math.isfinite(value):
        raise BudgetError(f"Budget {text!r:.60}: a time above 0 is expected, e.g. {EXAMPLE}.")
    if unit in {"x", "%"}:
        return _make_share(text, value / (100 if unit == "%" else 1), backend)
    seconds = value * _SECONDS[unit]
    if seconds > _MOST_SECONDS:
        raise BudgetError(
            f"Budget {text!r:.60}: no image takes {seconds:,.0f} s; write at most {_MOST_SECONDS:.0f}s, e.g. {EXAMPLE}."
        )
    return LatencyLimit(backend, seconds)


def _make_share(text: str, share: float, backend: str) -> LatencyLimit:
    """Check that a share of the float model's latency is at most 1."""
    if share > 1:
        raise BudgetError(
            f"Budget {text!r:.60} allows more time than the float model takes; write a share of at most 1, e.g. "
            f"{_SHARE_EXAMPLE}, or seconds."
        )
    return LatencyLimit(backend, share, is_share=True)
