"""From a quantized model to one that holds packed weights and computes in whole numbers."""

import copy
from collections.abc import Iterator
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import GELUActivation

from mixqsam.families.two_way_decoder import MaskDecoder
from mixqsam.numeric.attention import VisionAttention
from mixqsam.numeric.modules import Mlp, Product, QuantizedLayer
from mixqsam.numeric.quantizers import ActivationQuantizer
from mixqsam.numeric.tensor_file import TensorSource
from mixqsam.runtime.attention import IntegerMlp, IntegerVisionAttention
from mixqsam.runtime.block import INTEGER_LAYERS
from mixqsam.runtime.decoder import IntegerMaskDecoder
from mixqsam.runtime.packed import PackedConv2d, PackedLayer, PackedLinear, pack_layer
from mixqsam.runtime.tiny_vit import TINY_VIT
from mixqsam.sam.load import Sam

# What flows in them is small: the decoder's few tokens, or one window's.
_WHY_IN_FLOAT = "its products are small, and run on whole numbers in float"
# Between two products of bytes the softmax takes most of the time: bytes were measured to be no faster there.
_WHY_HOOKED = "its products are those of transformers' own attention, and run on whole numbers in float"


def integer_model(sam: Sam) -> Sam:
    """A copy of a fake-quantized model that computes in whole numbers where it can; its float tensors are shared."""
    shared = {id(tensor): tensor for tensor in [*sam.model.parameters(), *sam.model.buffers()]}
    model = copy.deepcopy(sam.model, shared)
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLayer):
            model.set_submodule(name, pack_layer(module))
    return replace(sam, model=arrange(model))


def packed_layer(
    source: nn.Module, name: str, *, bits: int, tensors: TensorSource, quantizer: ActivationQuantizer
) -> PackedLayer:
    """The packed form of a stored layer, its weight not unpacked: for `attach_stored`."""
    assert isinstance(source, nn.Linear | nn.Conv2d)  # noqa: S101  (what a unit with a weight is)
    shape = tuple(source.weight.shape)
    parts = tensors.packed(f"{name}.weight", bits=bits, shape=shape, rows=shape[0])
    if isinstance(source, nn.Conv2d):
        return PackedConv2d(shape, bits, tensors=parts, bias=source.bias, quantizer=quantizer, source=source)
    return PackedLinear(shape, bits, tensors=parts, bias=source.bias, quantizer=quantizer)


def arrange(model: PreTrainedModel) -> PreTrainedModel:
    """Let bytes flow from product to product within the encoder's blocks, attentions and MLPs with GELU; in place.

    The decoder computes once what the prompts of an image share.
    """
    for name, module in list(model.named_modules()):
        if type(module) is VisionAttention and IntegerVisionAttention.reason_against(module) is None:
            model.set_submodule(name, IntegerVisionAttention(module))
        elif type(module) is Mlp and _is_packed(module):
            model.set_submodule(name, IntegerMlp(module))
        elif type(module) in TINY_VIT:
            model.set_submodule(name, TINY_VIT[type(module)](module))
        elif type(module) is MaskDecoder:
            module.__class__ = IntegerMaskDecoder
    for name, module in list(model.named_modules()):
        if (kind := INTEGER_LAYERS.get(type(module))) and isinstance(module.attn, IntegerVisionAttention):
            model.set_submodule(name, kind(module))
    return model


def simulated_units(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Quantized units that are computed in float, and why."""
    for name, module in model.named_modules():
        if isinstance(module, PackedLayer) and module.simulated:
            yield name, module.simulated
        elif isinstance(module, Product) and module.quantizers:
            owner = model.get_submodule(name.rpartition(".")[0])
            if isinstance(owner, VisionAttention) and not isinstance(owner, IntegerVisionAttention):
                yield name, IntegerVisionAttention.reason_against(owner) or "it was not arranged"
            elif not isinstance(owner, VisionAttention):
                yield name, _WHY_IN_FLOAT if type(owner).__module__.startswith("mixqsam.") else _WHY_HOOKED


def _is_packed(block: Mlp) -> bool:
    layers = isinstance(block.lin1, PackedLinear) and isinstance(block.lin2, PackedLinear)
    return layers and isinstance(block.act, GELUActivation | nn.GELU)
