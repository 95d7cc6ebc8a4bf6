"""The units of a model: which there are, in which order, what they cost, and where their operands can be seen."""

from collections.abc import Iterator
from typing import Any

from mixqsam.plan import Costs, Operand, Unit
from mixqsam.sam.trace import trace


def unit_names(config: Any) -> list[str]:
    """Names of all units, in the order in which the data flows.

    See docs/method.md, “Units and costs”.
    """
    return [unit.name for unit in trace(config).units]


def count_costs(config: Any, *, prompts_per_image: int = 1) -> Costs:
    """Units with their parameters and multiply-adds, counted on a model without weights (torch's meta device).

    The decoder is counted for one box prompt. What is counted is what runs: windows include their padding.

    Raises:
        ModelError: the configuration's family is unknown.
    """
    traced = trace(config)
    return Costs(
        traced.units,
        float_bytes=traced.float_bytes,
        compact_bytes=traced.compact_bytes,
        prompts_per_image=prompts_per_image,
    )


def operand_taps(unit: Unit) -> Iterator[tuple[Operand, str]]:
    """Where the quantized activations of a unit can be seen: (operand, path of the module that takes it).

    A linear or convolution is seen at its own input; a product at its modules `left` and `right`.
    """
    for operand in unit.activations:
        yield operand, f"{unit.name}.{operand}" if unit.kind == "product" else unit.name
