"""Round to nearest: every weight and activation on the grid that its observer chose, nothing learned."""

import copy
from dataclasses import replace

from mixqsam.calibrate import Ranges, WeightGrids
from mixqsam.errors import MixqsamError
from mixqsam.numeric.honesty import check_model
from mixqsam.numeric.weights import quantize_weight
from mixqsam.plan import BitPlan, Unit
from mixqsam.sam.attach import attach_layer, attach_product
from mixqsam.sam.load import Sam


def quantize(sam: Sam, plan: BitPlan, *, ranges: Ranges, weights: WeightGrids) -> Sam:
    """A quantized copy of a float model; tensors that stay float are shared with it.

    Args:
        sam: the float model; it is not changed.
        plan: bits of every unit.
        ranges: activations' ranges.
        weights: weights' grids.

    Raises:
        MixqsamError: the plan is not one for this model.
        HonestyError: a module is not what its bits claim.
    """
    units = sam.costs().units
    if set(plan.bits) != {unit.name for unit in units}:
        odd = min(set(plan.bits) ^ {unit.name for unit in units})
        raise MixqsamError(f"The bit plan was made for another model: unit {odd} is in one of them only.")
    shared = {id(tensor): tensor for tensor in sam.model.parameters()}
    copied = replace(sam, model=copy.deepcopy(sam.model, shared))
    for unit in units:
        if not plan.bits[unit.name].is_float:
            _quantize_unit(copied, unit, plan, ranges=ranges, weights=weights)
    check_model(copied.model)
    return copied


def _quantize_unit(sam: Sam, unit: Unit, plan: BitPlan, *, ranges: Ranges, weights: WeightGrids) -> None:
    bits = plan.bits[unit.name]
    activation = ranges.grid(unit.name, slot="activation", bits=bits.activation)
    if unit.kind == "product":
        right = ranges.grid(unit.name, slot="weight", bits=bits.weight)
        attach_product(sam.model, unit.name, left=activation, right=right)
        return
    grid = weights.grid(unit.name, bits=bits.weight)
    attach_layer(sam.model, unit.name, weight=quantize_weight(weights.weight(unit.name), grid), grid=activation)
