"""Attentions with their matrix products as modules of their own, computed in pieces; families put them in place."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mixqsam.numeric.derived import exact
from mixqsam.numeric.modules import Product
from mixqsam.numeric.pieces import Mixing, mix_in_pieces, times, wants_gradients


class VisionAttention(nn.Module):
    """Self-attention of an image encoder with decomposed relative positions.

    `qk` and `av` are the two products. q is quantized before it is scaled, and the relative positions use the
    quantized q (docs/method.md, “Units and costs”).

    Args:
        heads: their number.
        scale: that q·kᵀ is multiplied by.
        qkv: tokens → q, k and v, one after the other.
        proj: mixed values → tokens.
        positions: embeddings of vertical and horizontal distances, [2·size − 1, c] each; None without them.
    """

    def __init__(
        self,
        *,
        heads: int,
        scale: float,
        qkv: nn.Module,
        proj: nn.Module,
        positions: tuple[nn.Parameter, nn.Parameter] | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.qkv, self.proj = qkv, proj
        self.qk, self.av = Product(), Product()
        vertical, horizontal = positions or (None, None)
        self.rel_pos_h: nn.Parameter | None = vertical
        self.rel_pos_w: nn.Parameter | None = horizontal

    @property
    def positions(self) -> tuple[nn.Parameter, nn.Parameter] | None:
        """Embeddings of vertical and horizontal distances."""
        if self.rel_pos_h is None or self.rel_pos_w is None:
            return None
        return self.rel_pos_h, self.rel_pos_w

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
        shares = self.position_shares(query * query_step if query_step != 1 else query, (height, width)) or ()
        weigh = partial(self._weigh, size=(height, width), step=self.scale * (query_step * key_step))
        mixing = Mixing(weigh, self.av, value_step)
        mixed = mix_in_pieces(mixing, (query, *shares), key, value, rows=height)
        mixed = mixed.reshape(batch, self.heads, height, width, -1)
        out: Tensor = self.proj(mixed.permute(0, 2, 3, 1, 4).reshape(batch, height, width, -1))
        return out, None

    def _weigh(self, query: Tensor, *others: Tensor, size: tuple[int, int], step: float) -> Tensor:
        """Softmax for some rows of queries, of q, the shares of positions if there are any, and k."""
        *shares, key = others
        logits: Tensor = self.qk(query, key.transpose(-2, -1)).mul_(step)
        return torch.softmax(add_positions(logits, shares, size), dim=-1)

    def position_shares(self, query: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        """The logits' shares of relative positions.

        Args:
            query: [groups, height·width, c].
            size: height and width.

        Returns:
            [groups, height, width, height] for the rows of keys and [groups, height, width, width] for their columns;
            None if this attention has no relative positions.
        """
        if self.positions is None:
            return None
        rows, columns = self.positions
        grid = query.reshape(len(query), *size, -1)
        vertical = torch.einsum("brwc,rkc->brwk", grid, relative_table(rows, size[0]))
        horizontal = torch.einsum("brwc,wkc->brwk", grid, relative_table(columns, size[1]))
        return vertical.contiguous(), horizontal.contiguous()


def joint_positions(shares: Sequence[Tensor], size: tuple[int, int], *, rows: slice = slice(None)) -> Tensor:
    """The shares of rows and columns together, [groups, rows·width, tokens], for some rows of queries."""
    vertical, horizontal = (share[:, rows] for share in shares)
    joint = vertical[..., :, None] + horizontal[..., None, :]
    return joint.view(len(joint), -1, size[0] * size[1])


def add_positions(logits: Tensor, shares: Sequence[Tensor] | None, size: tuple[int, int]) -> Tensor:
    """Add the shares of relative positions, if there are any, to the logits [groups, rows·width, tokens].

    In place where no gradients are wanted. Rows and columns are added to each other first: adding one value to a short
    run of logits takes longer than the addition of whole tensors.
    """
    if not shares:
        return logits
    joint = joint_positions(shares, size)
    return logits + joint if wants_gradients(logits, joint) else logits.add_(joint)


def relative_table(embedding: Tensor, size: int) -> Tensor:
    """Embeddings of distances [size, size, c]: row i, column j has that of i − j; interpolated from another size."""
    distances = 2 * size - 1
    if embedding.shape[0] != distances:
        stretched = nn.functional.interpolate(embedding.t()[None], size=distances, mode="linear")
        embedding = stretched[0].t()
    place = torch.arange(size, device=embedding.device)
    return embedding[place[:, None] - place[None, :] + size - 1]


class DecoderAttention(nn.Module):
    """Attention of a mask decoder: q, k and v are projected apart, and may be narrower than the tokens.

    Args:
        heads: their number.
        scale: that q·kᵀ is multiplied by.
        q_proj, k_proj, v_proj: tokens → q, k and v.
        out_proj: mixed values → tokens.

    Attributes:
        is_tall: queries are many and keys few. The softmax is then taken across rows, which is faster than along rows
            that are shorter than the processor's vectors.
    """

    is_tall = False

    def __init__(
        self,
        *,
        heads: int,
        scale: float,
        q_proj: nn.Module,
        k_proj: nn.Module,
        v_proj: nn.Module,
        out_proj: nn.Module,
    ) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = q_proj, k_proj, v_proj, out_proj
        self.qk, self.av = Product(), Product()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_similarity: Tensor | None = None,
        **_: object,
    ) -> tuple[Tensor, None]:
        """Attend from [batch, prompts, n, c] to [batch, prompts, m, c]; the groupings of both sides may differ."""
        attend = self._attend_exactly if self.qk.quantizers else self._attend
        return attend(query, key, value, attention_similarity), None

    @exact
    def _attend_exactly(self, *values: Tensor) -> Tensor:
        return self._attend(*values)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, attention_similarity: Tensor | None = None) -> Tensor:
        prompts = query.shape[1]
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        weights, weights_step = self.av.operand("left", self.weights(q, k, similarity=attention_similarity).to(v.dtype))
        v, value_step = self.av.operand("right", self._split(v))
        mixed = times(self.av(weights, v), weights_step * value_step)
        groups, heads, tokens, width = mixed.shape
        joined = mixed.transpose(1, 2).reshape(groups // prompts, prompts, tokens, heads * width)
        out: Tensor = self.out_proj(joined)
        return out

    def weights(self, query: Tensor, key: Tensor, *, similarity: Tensor | None = None) -> Tensor:
        """Softmax of q·kᵀ [batch·prompts, heads, n, m], from projected queries and keys."""
        q, query_step = self.qk.operand("left", self._split(query))
        k, key_step = self.qk.operand("right", self._split(key))
        if self.is_tall and similarity is None:
            across: Tensor = self.qk(k, q.transpose(-2, -1))
            across = across.mul_(self.scale * (query_step * key_step))
            return torch.softmax(across, dim=-2, dtype=torch.float32).transpose(-2, -1)
        logits: Tensor = self.qk(q, k.transpose(-2, -1))
        logits = logits.mul_(self.scale * (query_step * key_step))
        if similarity is not None:
            logits = logits + similarity
        return torch.softmax(logits, dim=-1, dtype=torch.float32)

    def _split(self, tokens: Tensor) -> Tensor:
        batch, prompts, count, channels = tokens.shape
        return tokens.reshape(batch * prompts, count, self.heads, channels // self.heads).transpose(1, 2)
