"""Check that what is called b bits is b bits (methods §4)."""

import torch
from torch import nn

from mixqsam.errors import HonestyError
from mixqsam.numeric.modules import Product, QuantizedConv2d, QuantizedLinear, Quantizer


def check_model(model: nn.Module) -> None:
    """Check every quantized module of a model.

    Each weight must equal the decoding of its stored codes, each code must fit its bits, and each activation
    quantizer must emit at most 2^b distinct values.

    Raises:
        HonestyError: one does not; the message names it.
    """
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedConv2d):
            _check_weight(module, name)
        if isinstance(module, Quantizer):
            _check_quantizer(module, name)
        if isinstance(module, Product) and isinstance(module.left, Quantizer) != isinstance(module.right, Quantizer):
            raise HonestyError(f"{name}: only one operand of the product is quantized.")


def _check_weight(module: QuantizedLinear | QuantizedConv2d, name: str) -> None:
    stored = module.stored
    if int(stored.codes.max()) >= 2**stored.grid.bits:
        raise HonestyError(f"{name}: a weight code does not fit {stored.grid.bits} bits.")
    if not torch.equal(module.weight, stored.dequantize().to(module.weight.dtype)):
        raise HonestyError(f"{name}: the weight in use is not the weight on its {stored.grid.bits}-bit grid.")


def _check_quantizer(module: Quantizer, name: str) -> None:
    reach = float(module.scale) * 2 ** (module.bits + 1)
    probe = torch.linspace(-reach, reach, 64 * 2**module.bits)
    distinct = module(probe).unique().numel()
    if distinct > 2**module.bits:
        raise HonestyError(f"{name}: {distinct} distinct values from a {module.bits}-bit quantizer.")
