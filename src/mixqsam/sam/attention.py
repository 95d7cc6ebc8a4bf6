"""SAM's two attentions with their matrix products as modules of their own, computed in pieces.

A global attention of SAM-B at 1024 pixels has 201 million logits (805 MB); here a few rows of queries at a time
are carried through product, softmax and product, so the peak is `_PIECE_BYTES` whatever the image size.
"""

import torch
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamAttention, SamVisionAttention

from mixqsam.numeric.modules import Product

_PIECE_BYTES = 64 << 20


class VisionAttention(nn.Module):
    """Self-attention of the image encoder with decomposed relative positions.

    `qk` and `av` are the two products. q is quantized before it is scaled, and the relative positions use the
    quantized q (docs/method.md, “Units and costs”).
    """

    def __init__(self, source: SamVisionAttention) -> None:
        super().__init__()
        self.heads: int = source.num_attention_heads
        self.scale: float = source.scale
        self.qkv = source.qkv
        self.proj = source.proj
        self.qk = Product()
        self.av = Product()
        if source.use_rel_pos:
            self.rel_pos_h: nn.Parameter | None = source.rel_pos_h
            self.rel_pos_w: nn.Parameter | None = source.rel_pos_w
        else:
            self.rel_pos_h = self.rel_pos_w = None

    def forward(self, hidden_states: Tensor, output_attentions: bool | None = None) -> tuple[Tensor, None]:
        """Attend within [batch, height, width, channels]; returns the same shape, and None for the weights."""
        del output_attentions
        batch, height, width, _ = hidden_states.shape
        tokens = height * width
        qkv = self.qkv(hidden_states).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.reshape(3, batch * self.heads, tokens, -1).unbind(0)
        query, query_step = self.qk.operand("left", query)
        key, key_step = self.qk.operand("right", key)
        value, value_step = self.av.operand("right", value)
        shares = self.position_shares(query * query_step if query_step != 1 else query, (height, width))
        step = self.scale * (query_step * key_step)
        rows = max(1, _PIECE_BYTES // (4 * batch * self.heads * width * tokens))
        pieces = []
        for start in range(0, height, rows):
            logits: Tensor = self.qk(query[:, start * width : (start + rows) * width], key.transpose(-2, -1))
            add_positions(logits.mul_(step), shares, (height, width), rows=slice(start, start + rows))
            weights, weights_step = self.av.operand("left", torch.softmax(logits, dim=-1))
            pieces.append(times(self.av(weights, value), weights_step * value_step))
        mixed = torch.cat(pieces, dim=1).reshape(batch, self.heads, height, width, -1)
        out: Tensor = self.proj(mixed.permute(0, 2, 3, 1, 4).reshape(batch, height, width, -1))
        return out, None

    def position_shares(self, query: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        """The logits' shares of relative positions.

        Args:
            query: [groups, height·width, c].
            size: height and width.

        Returns:
            [groups, height, width, height] for the rows of keys and [groups, height, width, width] for their columns;
            None if this attention has no relative positions.
        """
        if self.rel_pos_h is None or self.rel_pos_w is None:
            return None
        grid = query.reshape(len(query), *size, -1)
        vertical = torch.einsum("brwc,rkc->brwk", grid, relative_table(self.rel_pos_h, size[0]))
        horizontal = torch.einsum("brwc,wkc->brwk", grid, relative_table(self.rel_pos_w, size[1]))
        return vertical.contiguous(), horizontal.contiguous()


def add_positions(logits: Tensor, shares: tuple[Tensor, Tensor] | None, size: tuple[int, int], *, rows: slice) -> None:
    """Add the shares of relative positions, in place, to the logits [groups, rows·width, tokens] of some rows."""
    if shares is None:
        return
    vertical, horizontal = (share[:, rows] for share in shares)
    grid = logits.view(*vertical.shape[:3], *size)
    grid.add_(vertical[..., :, None]).add_(horizontal[..., None, :])


def times(values: Tensor, step: float) -> Tensor:
    """Values times a step, in place; untouched where the step is 1."""
    return values if step == 1 else values.mul_(step)


def relative_table(embedding: Tensor, size: int) -> Tensor:
    """Embeddings of distances [size, size, c]: row i, column j has that of i − j; interpolated from another size."""
    distances = 2 * size - 1
    if embedding.shape[0] != distances:
        stretched = nn.functional.interpolate(embedding.t()[None], size=distances, mode="linear")
        embedding = stretched[0].t()
    place = torch.arange(size, device=embedding.device)
    return embedding[place[:, None] - place[None, :] + size - 1]


class DecoderAttention(nn.Module):
    """Attention of the mask decoder: q, k and v are projected apart, and may be narrower than the tokens."""

    def __init__(self, source: SamAttention) -> None:
        super().__init__()
        self.heads: int = source.num_attention_heads
        self.scale: float = source.scaling
        self.q_proj = source.q_proj
        self.k_proj = source.k_proj
        self.v_proj = source.v_proj
        self.out_proj = source.out_proj
        self.qk = Product()
        self.av = Product()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_similarity: Tensor | None = None,
        **_: object,
    ) -> tuple[Tensor, None]:
        """Attend from [batch, prompts, n, c] to [batch, prompts, m, c]; the groupings of both sides may differ."""
        prompts = query.shape[1]
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        weights, weights_step = self.av.operand("left", self.weights(q, k, similarity=attention_similarity).to(v.dtype))
        v, value_step = self.av.operand("right", self._split(v))
        mixed = times(self.av(weights, v), weights_step * value_step)
        groups, heads, tokens, width = mixed.shape
        joined = mixed.transpose(1, 2).reshape(groups // prompts, prompts, tokens, heads * width)
        out: Tensor = self.out_proj(joined)
        return out, None

    def weights(self, query: Tensor, key: Tensor, *, similarity: Tensor | None = None) -> Tensor:
        """Softmax of q·kᵀ [batch·prompts, heads, n, m], from projected queries and keys."""
        q, query_step = self.qk.operand("left", self._split(query))
        k, key_step = self.qk.operand("right", self._split(key))
        logits: Tensor = self.qk(q, k.transpose(-2, -1))
        logits = logits.mul_(self.scale * (query_step * key_step))
        if similarity is not None:
            logits = logits + similarity
        return torch.softmax(logits, dim=-1, dtype=torch.float32)

    def _split(self, tokens: Tensor) -> Tensor:
        batch, prompts, count, channels = tokens.shape
        return tokens.reshape(batch * prompts, count, self.heads, channels // self.heads).transpose(1, 2)


def split_attention(model: SamModel) -> SamModel:
    """Replace the model's attentions, in place, by those of this module; the weights are shared."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SamVisionAttention):
                setattr(parent, name, VisionAttention(child))
            elif isinstance(child, SamAttention):
                setattr(parent, name, DecoderAttention(child))
    return model
