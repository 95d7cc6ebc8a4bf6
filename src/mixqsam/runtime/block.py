"""Blocks of a ViT, some tokens at a time: what lies between products stays in the cache. Windows are cut of bytes."""

from typing import cast

import torch
from torch import Tensor, nn

from mixqsam.families.vit_layers import SamHQVisionLayer, SamVisionLayer
from mixqsam.numeric.derived import exact
from mixqsam.runtime.attention import TOKENS, IntegerMlp, IntegerVisionAttention
from mixqsam.runtime.kernels import IntegerLinear
from mixqsam.runtime.packed import kernel_of, wants_gradients
from mixqsam.runtime.windows import Windows


class _IntegerLayer(nn.Module):
    """A block whose attention and projection are integer; the MLP may be float.

    The projections of q, k and v, and that of the mixed values, leave out what fills up the windows.
    """

    layer_norm1: nn.Module
    attn: nn.Module
    layer_norm2: nn.Module
    mlp: nn.Module

    def __init__(self, source: SamVisionLayer | SamHQVisionLayer) -> None:
        # Transformers' own would make new weights.
        nn.Module.__init__(self)
        self.layer_norm1, self.attn = source.layer_norm1, source.attn
        self.layer_norm2, self.mlp = source.layer_norm2, source.mlp
        self.window_size: int = source.window_size

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [batch, height, width, channels] to the same shape."""
        attention = self.attn
        if isinstance(attention, IntegerVisionAttention) and not wants_gradients(self, hidden_states):
            projection = kernel_of(attention.qkv, hidden_states) and kernel_of(attention.proj, hidden_states)
            if projection is not None:
                found: Tensor = self._forward(hidden_states, projection)
                return found
        return cast("Tensor", super().forward(hidden_states))

    @exact
    def _forward(self, hidden_states: Tensor, projection: IntegerLinear) -> Tensor:
        attention = cast("IntegerVisionAttention", self.attn)
        windows = Windows.of(hidden_states, side=self.window_size, heads=attention.heads)
        mixed = attention.attend(hidden_states, windows, norm=self.layer_norm1)
        codes = windows.join(projection.source.encode(mixed, spent=True))
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        out = torch.empty_like(tokens)
        # Float products of fewer rows may be rounded otherwise than the simulation's.
        whole = isinstance(self.mlp, IntegerMlp) and self.mlp.is_integer(tokens)
        step = TOKENS if whole else len(tokens)
        for some, before, place in zip(codes.split(step), tokens.split(step), out.split(step), strict=True):
            attended = projection(some).add_(before)
            place.copy_(self.mlp(self.layer_norm2(attended))).add_(attended)
        return out.view(hidden_states.shape)


class IntegerSamLayer(_IntegerLayer, SamVisionLayer):  # type: ignore[misc]
    """A block of SAM."""


class IntegerSamHQLayer(_IntegerLayer, SamHQVisionLayer):  # type: ignore[misc]
    """A block of SAM-HQ."""


INTEGER_LAYERS: dict[type[nn.Module], type[_IntegerLayer]] = {
    SamVisionLayer: IntegerSamLayer,
    SamHQVisionLayer: IntegerSamHQLayer,
}
