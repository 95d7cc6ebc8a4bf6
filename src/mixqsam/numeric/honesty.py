"""Check that what is called b bits is b bits.

See docs/method.md, “Honest numbers”.
"""

import torch
from torch import Tensor, nn

from mixqsam.errors import HonestyError
from mixqsam.numeric.half import HALF_TYPES, HalfTensor, Unquantized
from mixqsam.numeric.modules import Product, QuantizedLayer, StoredLayer
from mixqsam.numeric.quantizers import ActivationQuantizer
from mixqsam.numeric.weights import QuantizedTensor
from mixqsam.plan import BitPlan, UnitBits


def check_model(model: nn.Module, plan: BitPlan | None = None) -> None:
    """Check every quantized module of a model.

    Each weight must equal the decoding of its stored codes, each code must fit its bits, and each activation
    quantizer must emit at most 2^b distinct values. A weight of 16 bits must be stored in half precision. With a plan,
    every unit of it must be a frozen quantized module of exactly the plan's bits, so that nothing soft is left of a
    reconstruction.

    Raises:
        HonestyError: one does not; the message names it.
    """
    for name, module in model.named_modules():
        if isinstance(module, StoredLayer):
            _check_weight(module, name)
        if isinstance(module, ActivationQuantizer):
            _check_quantizer(module, name)
        if isinstance(module, Product) and len(module.quantizers) == 1:
            raise HonestyError(f"{name}: only one operand of the product was given bits.")
    if plan is not None:
        for name, bits in plan.bits.items():
            _check_unit(model.get_submodule(name), name, bits)


def _check_unit(module: nn.Module, name: str, bits: UnitBits) -> None:
    if isinstance(module, StoredLayer):
        found = str(UnitBits(module.stored.bits, module.input.bits))
    elif isinstance(module, Product) and module.quantizers:
        found = str(UnitBits(module.quantizers["right"].bits, module.quantizers["left"].bits))
    else:
        soft = not isinstance(module, Product | nn.Linear | nn.Conv2d)
        found = type(module).__name__ if soft else "float"
    if found != str(bits):
        raise HonestyError(f"{name} is to be {bits} but is {found}.")


def _check_weight(module: StoredLayer, name: str) -> None:
    stored = module.stored
    if isinstance(stored, QuantizedTensor) and int(stored.codes.max()) >= 2**stored.bits:
        raise HonestyError(f"{name}: a weight code does not fit {stored.bits} bits.")
    if isinstance(stored, HalfTensor) and stored.values.dtype not in HALF_TYPES:
        raise HonestyError(f"{name}: a weight of {stored.bits} bits is stored as {stored.values.dtype}.")
    if isinstance(module, QuantizedLayer) and not torch.equal(module.weight.cpu(), stored.whole().cpu()):
        what = "stored in half precision" if isinstance(stored, HalfTensor) else f"on its {stored.bits}-bit grid"
        raise HonestyError(f"{name}: the weight in use is not the weight {what}.")


def _check_quantizer(module: ActivationQuantizer, name: str) -> None:
    if isinstance(module, Unquantized):
        return
    distinct = int(distinct_values(module).max())
    if distinct > 2**module.bits:
        raise HonestyError(f"{name}: {distinct} distinct values from a {module.bits}-bit quantizer.")


def distinct_values(quantizer: ActivationQuantizer) -> Tensor:
    """How many values a quantizer emits, of each channel: [channels], or [1] where all share one grid.

    It is fed values that are dense over its whole range, and dense near zero too.
    """
    channels = quantizer.channels or 1
    device = next(quantizer.buffers()).device
    # As activations lie, with as few elements as that takes: [values, channels], or [values, channels, 1, 1] of maps.
    shape = (channels, *[1] * (-1 - quantizer.channel_axis))
    far = torch.full((1, *shape), 1e6, device=device)
    # Each channel over its own range: one may be hundreds of times as wide as another.
    low, high = quantizer(-far), quantizer(far)
    reach = (high - low).clamp(min=1e-6)

    def along(values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * len(shape))

    even = along(torch.linspace(-0.1, 1.1, 32 * 2**quantizer.bits, device=device)) * reach + low
    small = along(torch.logspace(-12, 0, 1024, device=device)) * reach
    found = quantizer(torch.cat([even, small, low + small, -small, torch.zeros_like(far)])).sort(dim=0).values
    steps: Tensor = (found.diff(dim=0) != 0).sum(dim=0).flatten()
    return steps + 1
