"""The units of a SAM: which there are, in which order, and what they cost."""

from collections.abc import Iterator
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from transformers import SamConfig, SamModel

from mixqsam.numeric.modules import Product
from mixqsam.plan import Costs, Kind, Operand, Part, Unit
from mixqsam.sam.attention import split_attention
from mixqsam.sam.hooks import watched
from mixqsam.sam.rest import rest_of, stored_bytes

_ENCODER_BLOCK = ("attn.qkv", "attn.qk", "attn.av", "attn.proj", "mlp.lin1", "mlp.lin2")
_DECODER_ATTENTION = ("q_proj", "k_proj", "v_proj", "qk", "av", "out_proj")


def unit_names(config: SamConfig) -> list[str]:
    """Names of all units, in the order in which the data flows.

    See docs/method.md, “Units and costs”.

    Patch and position embedding, prompt encoder, upscaling, hypernetworks, IoU head and norms are no units:
    they stay float, as in all published methods.
    """
    names = [
        f"vision_encoder.layers.{index}.{tail}"
        for index in range(config.vision_config.num_hidden_layers)
        for tail in _ENCODER_BLOCK
    ]
    names += ["vision_encoder.neck.conv1", "vision_encoder.neck.conv2"]
    root = "mask_decoder.transformer"
    for index in range(config.mask_decoder_config.num_hidden_layers):
        layer = f"{root}.layers.{index}"
        names += [f"{layer}.self_attn.{tail}" for tail in _DECODER_ATTENTION]
        names += [f"{layer}.cross_attn_token_to_image.{tail}" for tail in _DECODER_ATTENTION]
        names += [f"{layer}.mlp.lin1", f"{layer}.mlp.lin2"]
        names += [f"{layer}.cross_attn_image_to_token.{tail}" for tail in _DECODER_ATTENTION]
    return names + [f"{root}.final_attn_token_to_image.{tail}" for tail in _DECODER_ATTENTION]


def count_costs(config: SamConfig, *, prompts_per_image: int = 1) -> Costs:
    """Units with their parameters and multiply-adds, counted on a model without weights (torch's meta device).

    The decoder is counted for one box prompt. What is counted is what runs: windows include their padding.
    """
    with torch.device("meta"):
        model = split_attention(SamModel(config)).eval()
    names = unit_names(config)
    counts = dict.fromkeys(names, 0)
    watchers = {name: partial(_count, counts, name, model.get_submodule(name)) for name in names}
    size = config.vision_config.image_size
    with torch.no_grad(), torch.device("meta"), watched(model, watchers):
        pixels = torch.empty(1, config.vision_config.num_channels, size, size)
        model(pixel_values=pixels, input_boxes=torch.empty(1, 1, 4), multimask_output=False)
    units = tuple(_describe(model.get_submodule(name), name, counts[name]) for name in names)
    shapes = [tuple(parameter.shape) for _, parameter in rest_of(model, set(names))]
    return Costs(
        units,
        float_bytes=4 * sum(prod(shape) for shape in shapes),
        compact_bytes=sum(stored_bytes(shape) for shape in shapes),
        prompts_per_image=prompts_per_image,
    )


def _describe(module: nn.Module, name: str, multiply_adds: int) -> Unit:
    part: Part = "encoder" if name.startswith("vision_encoder") else "decoder"
    if isinstance(module, Product):
        return Unit(name, "product", part, 0, 0, multiply_adds)
    kind: Kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
    weight = module.weight
    assert isinstance(weight, Tensor)  # noqa: S101  (narrows the type of nn.Module's attribute)
    return Unit(name, kind, part, weight.numel(), weight.shape[0], multiply_adds)


def _count(counts: dict[str, int], name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Add the multiply-adds of one call of a unit."""
    if isinstance(module, Product):
        counts[name] += output.numel() * inputs[0].shape[-1]
    else:
        weight = module.weight
        assert isinstance(weight, Tensor)  # noqa: S101
        counts[name] += output.numel() * weight[0].numel()


def operand_taps(unit: Unit) -> Iterator[tuple[Operand, str]]:
    """Where the quantized activations of a unit can be seen: (operand, path of the module that takes it).

    A linear or convolution is seen at its own input; a product at its modules `left` and `right`.
    """
    for operand in unit.activations:
        yield operand, f"{unit.name}.{operand}" if unit.kind == "product" else unit.name
