"""The units of a model: which there are, in which order, what they cost, and where their operands can be seen."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from mixqsam.numeric.modules import Product
from mixqsam.plan import Costs, Unit
from mixqsam.sam.trace import trace


def unit_names(config: Any) -> list[str]:
    """Names of all units, in the order in which the data flows (methods §0)."""
    return [unit.name for unit in trace(config).units]


def count_costs(config: Any, *, prompts_per_image: int = 1) -> Costs:
    """Units with their parameters and multiply-adds, counted on a model without weights (torch's meta device).

    The decoder is counted for one box prompt. What is counted is what runs: windows include their padding.

    Raises:
        ModelError: the configuration's family is unknown.
    """
    found = trace(config)
    return Costs(
        found.units,
        float_bytes=found.float_bytes,
        compact_bytes=found.compact_bytes,
        prompts_per_image=prompts_per_image,
    )


def operand_taps(model: nn.Module, unit: Unit) -> Iterator[tuple[str, nn.Module]]:
    """Where the quantized activations of a unit can be seen: (slot, module).

    A linear or convolution is seen at its own input; a product at the outputs of `right` (slot `weight`) and
    `left` (slot `activation`).
    """
    module = model.get_submodule(unit.name)
    if isinstance(module, Product):
        yield "activation", module.left
        yield "weight", module.right
    else:
        yield "activation", module
