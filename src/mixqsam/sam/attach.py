"""Put quantized modules in the places of a model's units."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from mixqsam.errors import ArtifactError, ModelError
from mixqsam.numeric.half import StoredWeight
from mixqsam.numeric.modules import Product, QuantizedConv2d, QuantizedLinear
from mixqsam.numeric.quantizers import ActivationQuantizer
from mixqsam.numeric.tensor_file import TensorSource
from mixqsam.plan import Operand, UnitBits


class LayerMaker(Protocol):
    """Makes a module from a float one, its name, and where its tensors are."""

    def __call__(
        self, source: nn.Module, name: str, *, bits: int, tensors: TensorSource, quantizer: ActivationQuantizer
    ) -> nn.Module:
        """The module."""
        ...


def attach_layer(model: nn.Module, name: str, *, weight: StoredWeight, quantizer: ActivationQuantizer) -> None:
    """Replace the linear or convolution `name` by its quantized form; the bias is kept.

    Raises:
        ModelError: the module is neither.
    """
    source = model.get_submodule(name)
    if isinstance(source, nn.Linear):
        model.set_submodule(name, QuantizedLinear(weight, source.bias, quantizer))
    elif isinstance(source, nn.Conv2d):
        model.set_submodule(name, QuantizedConv2d(weight, source.bias, quantizer, source=source))
    else:
        raise ModelError(f"{name} is a {type(source).__name__}; only linears and convolutions have weights.")


def attach_product(model: nn.Module, name: str, *, left: ActivationQuantizer, right: ActivationQuantizer) -> None:
    """Quantize both operands of the product `name`.

    Raises:
        ModelError: the module is not a product.
    """
    module = model.get_submodule(name)
    if not isinstance(module, Product):
        raise ModelError(f"{name} is a {type(module).__name__}; expected a product of an attention.")
    module.left, module.right = left, right


def attach_stored(
    model: nn.Module,
    name: str,
    *,
    bits: UnitBits,
    kinds: Mapping[str, str],
    tensors: TensorSource,
    layer: LayerMaker | None = None,
) -> None:
    """Put a stored unit in the place of the float one.

    Args:
        model: changed in place.
        name: the unit.
        bits: its bits.
        kinds: operand (`input`, `left`, `right`) → kind of quantizer; those left out are affine.
        tensors: where its tensors are.
        layer: what makes the module of a unit with a weight; a fake-quantized one if it is not given.

    Raises:
        ArtifactError: a tensor is missing or not what it should be.
    """
    module = model.get_submodule(name)

    def quantizer(operand: Operand, **layer: int) -> ActivationQuantizer:
        kind = kinds.get(operand, "affine")
        return tensors.quantizer(f"{name}.{operand}", kind=kind, bits=bits.of(operand), **layer)

    if isinstance(module, Product):
        attach_product(model, name, left=quantizer("left"), right=quantizer("right"))
        return
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise ArtifactError(f"{name} has no weight to quantize.")
    # The weight of a grouped convolution sees a part of the input's channels.
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    own = quantizer("input", channels=weight.shape[1] * groups, groups=groups)
    if layer is not None:
        model.set_submodule(name, layer(module, name, bits=bits.weight, tensors=tensors, quantizer=own))
        return
    attach_layer(model, name, weight=tensors.weight(name, bits=bits.weight, shape=tuple(weight.shape)), quantizer=own)
