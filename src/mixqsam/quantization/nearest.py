"""Round to nearest: every weight on the nearest point of its grid, nothing learned."""

import copy
from dataclasses import replace

from mixqsam.numeric.honesty import check_model
from mixqsam.plan import BitPlan, Unit
from mixqsam.quantization.setting import Activations, Setting
from mixqsam.sam.attach import attach_layer, attach_product
from mixqsam.sam.compact import compacted
from mixqsam.sam.load import Sam


def round_to_nearest(setting: Setting, activations: Activations) -> Sam:
    """A quantized copy of a float model; tensors that stay float are shared with it.

    Raises:
        HonestyError: a module is not what its bits claim.
    """
    quantized = draft(setting.sam)
    for unit in setting.quantized():
        attach_nearest(quantized, unit, setting, activations)
    return finished(quantized, setting.plan)


def draft(sam: Sam) -> Sam:
    """A copy of a model whose modules may be replaced; its tensors are the model's own."""
    shared = {id(tensor): tensor for tensor in sam.model.parameters()}
    return replace(sam, model=copy.deepcopy(sam.model, shared))


def finished(quantized: Sam, plan: BitPlan) -> Sam:
    """The same model with the rest as its file will hold it, once it has passed the honesty checks.

    Raises:
        HonestyError: a module is not what its bits claim.
    """
    if not all(bits.is_float for bits in plan.bits.values()):
        quantized = compacted(quantized)
    quantized.model.to(quantized.device)
    check_model(quantized.model, plan)
    return quantized


def attach_nearest(quantized: Sam, unit: Unit, setting: Setting, activations: Activations) -> None:
    """Quantize one unit of a draft."""
    model, name = quantized.model, unit.name
    quantizers = {one: copy.deepcopy(activations[name, one]).deployable() for one in unit.activations}
    if unit.kind == "product":
        attach_product(model, name, left=quantizers["left"], right=quantizers["right"])
        return
    weight = setting.weights.nearest(name, bits=setting.plan.bits[name].weight)
    attach_layer(model, name, weight=weight, quantizer=quantizers["input"])
