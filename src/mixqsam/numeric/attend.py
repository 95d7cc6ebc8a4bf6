"""Attention of models that project q, k and v themselves: its two products are modules on whichever module asks.

`attend` has the signature of transformers' attention functions, so one function serves every model whose attentions
call through transformers' `AttentionInterface`. Global attention is carried through a few rows of queries at a time.
"""

from functools import partial

import torch
from torch import Tensor, nn

from mixqsam.numeric.attention import DecoderAttention
from mixqsam.numeric.derived import exact
from mixqsam.numeric.modules import Product
from mixqsam.numeric.pieces import PIECE_BYTES, Mixing, mix_in_pieces, wants_gradients

# Logits of one group up to which an attention is never cut: windows, and the decoder's few tokens.
_UNCUT = 1 << 16


def place_products(attention: nn.Module) -> None:
    """Give an attention the modules `qk` and `av`, which `attend` multiplies with; in place."""
    attention.qk, attention.av = Product(), Product()


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Softmax of scaling·q·kᵀ + mask, times v.

    An attention without products of its own is computed in float.

    Args:
        module: the attention that asks; its `qk` and `av` hold the quantizers of the operands.
        query: [batch, heads, n, c].
        key: [batch, heads, m, c].
        value: [batch, heads, m, c'].
        attention_mask: added to the logits; broadcasts to [batch, heads, n, m].
        scaling: that q·kᵀ is multiplied by; 1/√c if it is not given.
        dropout: of the softmax, while the module is trained.

    Returns:
        [batch, n, heads, c'], and None for the weights.
    """
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    share = dropout if module.training else 0.0
    qk = getattr(module, "qk", None)
    compute = _attend_exactly if isinstance(qk, Product) and qk.quantizers else _attend
    return compute(module, query, key, value, attention_mask, factor=factor, dropout=share), None


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, factor: float, dropout: float
) -> Tensor:
    qk, av = (one if isinstance(one := getattr(module, name, None), Product) else Product() for name in ("qk", "av"))
    query, query_step = qk.operand("left", query)
    key, key_step = qk.operand("right", key)
    value, value_step = av.operand("right", value)
    weigh = partial(_weigh, qk=qk, factor=factor * (query_step * key_step), dtype=value.dtype, dropout=dropout)
    places, is_plain = _places(query, key), mask is None and not dropout
    if is_plain and len(places) > 1 and wants_gradients(query, key, value, *av.parameters()):
        flat = [one.flatten(0, 1) for one in (query, key, value)]
        mixed = mix_in_pieces(Mixing(weigh, av, value_step), flat[:1], flat[1], flat[2], rows=query.shape[-2])
        mixed = mixed.unflatten(0, query.shape[:2])
    else:
        pieces = [
            Mixing(partial(weigh, mask=_rows_of(mask, place)), av, value_step).mix([query[..., place, :]], key, value)
            for place in places
        ]
        mixed = torch.cat(pieces, dim=-2)
    return mixed.transpose(1, 2).contiguous()


def _weigh(
    query: Tensor,
    key: Tensor,
    *,
    qk: Product,
    factor: float,
    dtype: torch.dtype,
    dropout: float,
    mask: Tensor | None = None,
) -> Tensor:
    """Softmax for some rows of queries; the operands are quantized, and the factor includes their steps."""
    logits: Tensor = qk(query, key.transpose(-2, -1)).mul_(factor)
    if mask is not None:
        logits = logits + mask
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32).to(dtype)
    return nn.functional.dropout(weights, dropout) if dropout else weights


def _rows_of(mask: Tensor | None, place: slice) -> Tensor | None:
    """The mask of some rows of queries, if there is one."""
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., place, :]


_attend_exactly = exact(_attend)


def _places(query: Tensor, key: Tensor) -> list[slice]:
    """The rows of queries that are carried at a time."""
    batch, heads, tokens, _ = query.shape
    others = key.shape[-2]
    # A size that an exporter leaves open is not an int: such an attention is not cut.
    known = all(isinstance(size, int) for size in (batch, tokens, others))
    if not known or tokens * others <= _UNCUT:
        return [slice(None)]
    rows = max(1, PIECE_BYTES // (4 * batch * heads * others))
    return [slice(start, start + rows) for start in range(0, tokens, rows)]


def attention_weights(attention: nn.Module, query: Tensor, key: Tensor) -> Tensor:
    """Softmax of q·kᵀ [batch·prompts, heads, n, m] of a decoder's attention, from projected queries and keys.

    Args:
        attention: the engine's, or one of transformers'.
        query: [batch, prompts, n, c].
        key: [batch, prompts, m, c].
    """
    if isinstance(attention, DecoderAttention):
        return attention.weights(query, key)
    heads, factor = int(attention.num_attention_heads), float(attention.scaling)  # type: ignore[arg-type]
    q, k = (one.flatten(0, 1).unflatten(-1, (heads, -1)).transpose(1, 2) for one in (query, key))
    return torch.softmax((q @ k.transpose(-2, -1)).mul_(factor), dim=-1, dtype=torch.float32)
