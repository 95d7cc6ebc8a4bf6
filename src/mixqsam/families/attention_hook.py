"""Attentions that call through transformers' `AttentionInterface` compute with the engine's products."""

from torch import nn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from mixqsam.numeric.attend import attend, place_products

NAME = "mixqsam"


def register() -> None:
    """Tell transformers the engine's attention; telling it twice does nothing.

    Masks are made as for the plain form, which adds them to the logits. Without that, a model that makes masks would
    attend without one.
    """
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)


def hook_attentions(model: nn.Module, *kinds: type[nn.Module]) -> None:
    """Have a model's attentions call the engine's, in place.

    Args:
        model: of transformers.
        kinds: classes of attentions that get the two products; those of other classes compute in float.
    """
    register()
    for module in model.modules():
        if isinstance(module, kinds):
            place_products(module)
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            config._attn_implementation = NAME
