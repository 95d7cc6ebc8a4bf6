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
    quantized q (methods §0).
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
        query = self.qk.left(query).reshape(batch * self.heads, height, width, -1)
        key = self.qk.right(key).transpose(-2, -1)
        value = self.av.right(value)
        tables = self._relative_tables(height, width)
        rows = max(1, _PIECE_BYTES // (4 * batch * self.heads * width * tokens))
        pieces = [
            self._attend(query[:, start : start + rows], key, value, tables=tables, first_row=start)
            for start in range(0, height, rows)
        ]
        mixed = torch.cat(pieces, dim=1).reshape(batch, self.heads, height, width, -1)
        out: Tensor = self.proj(mixed.permute(0, 2, 3, 1, 4).reshape(batch, height, width, -1))
        return out, None

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        tables: tuple[Tensor, Tensor] | None,
        first_row: int,
    ) -> Tensor:
        """Some rows of queries [batch·heads, rows, width, c] against all keys → [batch·heads, rows·width, c]."""
        groups, rows, width, _ = query.shape
        logits: Tensor = self.qk(query.reshape(groups, rows * width, -1), key)
        logits = logits.mul_(self.scale)
        if tables is not None:
            vertical = torch.einsum("brwc,rkc->brwk", query, tables[0][first_row : first_row + rows])
            horizontal = torch.einsum("brwc,wkc->brwk", query, tables[1])
            grid = logits.view(groups, rows, width, vertical.shape[-1], horizontal.shape[-1])
            grid.add_(vertical[..., :, None]).add_(horizontal[..., None, :])
        weights = self.av.left(torch.softmax(logits, dim=-1, dtype=torch.float32).to(value.dtype))
        out: Tensor = self.av(weights, value)
        return out

    def _relative_tables(self, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        if self.rel_pos_h is None or self.rel_pos_w is None:
            return None
        return _relative_table(self.rel_pos_h, height), _relative_table(self.rel_pos_w, width)


def _relative_table(embedding: Tensor, size: int) -> Tensor:
    """Row i, column j: the embedding of the distance i − j, interpolated if it was made for another size."""
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
        weights = self.av.left(self.weights(q, k, similarity=attention_similarity).to(v.dtype))
        v = self.av.right(self._split(v))
        mixed: Tensor = self.av(weights, v)
        groups, heads, tokens, width = mixed.shape
        joined = mixed.transpose(1, 2).reshape(groups // prompts, prompts, tokens, heads * width)
        out: Tensor = self.out_proj(joined)
        return out, None

    def weights(self, query: Tensor, key: Tensor, *, similarity: Tensor | None = None) -> Tensor:
        """Softmax of q·kᵀ [batch·prompts, heads, n, m], from projected queries and keys."""
        q, k = self.qk.left(self._split(query)), self.qk.right(self._split(key))
        logits: Tensor = self.qk(q, k.transpose(-2, -1))
        logits = logits.mul_(self.scale)
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
