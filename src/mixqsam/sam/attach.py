"""Put quantized modules in the places of a model's units."""

from torch import nn
from transformers import SamModel

from mixqsam.errors import ModelError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.modules import Product, QuantizedConv2d, QuantizedLinear, Quantizer
from mixqsam.numeric.weights import QuantizedTensor


def attach_layer(model: SamModel, name: str, *, weight: QuantizedTensor, grid: AffineGrid) -> None:
    """Replace the linear or convolution `name` by its quantized form; the bias is kept.

    Raises:
        ModelError: the module is neither.
    """
    source = model.get_submodule(name)
    quantizer = Quantizer(grid)
    if isinstance(source, nn.Linear):
        model.set_submodule(name, QuantizedLinear(weight, source.bias, quantizer))
    elif isinstance(source, nn.Conv2d):
        model.set_submodule(name, QuantizedConv2d(weight, source.bias, quantizer, source=source))
    else:
        raise ModelError(f"{name} is a {type(source).__name__}; only linears and convolutions have weights.")


def attach_product(model: SamModel, name: str, *, left: AffineGrid, right: AffineGrid) -> None:
    """Quantize both operands of the product `name`.

    Raises:
        ModelError: the module is no product.
    """
    module = model.get_submodule(name)
    if not isinstance(module, Product):
        raise ModelError(f"{name} is a {type(module).__name__}; expected a product of an attention.")
    module.left, module.right = Quantizer(left), Quantizer(right)
