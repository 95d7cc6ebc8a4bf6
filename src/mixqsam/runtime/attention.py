"""The image encoder's attention and MLP with bytes flowing from one product to the next."""

import torch
from torch import Tensor

from mixqsam.numeric.attention import VisionAttention, add_positions, joint_positions
from mixqsam.numeric.derived import Derived, exact
from mixqsam.numeric.modules import Mlp
from mixqsam.runtime.kernels import ByteGrid, ByteMatrix, IntegerLinear, UnsupportedError, missing_kernels
from mixqsam.runtime.packed import PackedLinear, kernel_of

# Logits that are carried through product, softmax and product at once: 4 MB, which stay in the cache.
_LOGITS = 1 << 20
# Up to so many tokens the products are made for many heads and windows at once, on whole numbers in float.
_SMALL = 512
# Tokens that go through the wide layers at once.
_TOKENS = 512

Shares = tuple[Tensor, Tensor]


class IntegerMlp(Mlp):
    """lin1, GELU and lin2, some tokens at a time, so that the wide values between them stay in the cache."""

    def __init__(self, source: Mlp) -> None:
        super().__init__(source.lin1, source.act, source.lin2)

    @exact
    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [..., channels] to the same shape."""
        first, second = kernel_of(self.lin1, hidden_states), kernel_of(self.lin2, hidden_states)
        if first is None or second is None:
            return super().forward(hidden_states)
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        wide = (first.activated(first.source.encode(some), self.act) for some in tokens.split(_TOKENS))
        codes = [second.source.encode(some, spent=True) for some in wide]
        found: Tensor = second(torch.cat(codes))
        return found.reshape(hidden_states.shape)


class IntegerVisionAttention(VisionAttention):
    """Self-attention whose products are integer; the softmax between them is float32."""

    def __init__(self, source: VisionAttention) -> None:
        super().__init__(
            heads=source.heads, scale=source.scale, qkv=source.qkv, proj=source.proj, positions=source.positions
        )
        self.qk, self.av = source.qk, source.av
        self._derived: Derived[dict[str, ByteGrid]] = Derived()

    @property
    def _grids(self) -> dict[str, ByteGrid]:
        """The grids of the operands, as plain numbers of their tensors."""
        return self._derived.get((*self.qk.buffers(), *self.av.buffers()), self._make_grids)

    def _make_grids(self) -> dict[str, ByteGrid]:
        return {
            "query": ByteGrid.of(self.qk.quantizers["left"]),
            "key": ByteGrid.of(self.qk.quantizers["right"]),
            "weights": ByteGrid.of(self.av.quantizers["left"]),
            "value": ByteGrid.of(self.av.quantizers["right"]),
        }

    @classmethod
    def reason_against(cls, source: VisionAttention) -> str | None:
        """Why an attention cannot be computed so; None if it can."""
        if reason := missing_kernels():
            return reason
        if not isinstance(source.qkv, PackedLinear) or not source.qk.quantizers or not source.av.quantizers:
            return "a part of it is float"
        try:
            for quantizer in [*source.qk.quantizers.values(), *source.av.quantizers.values()]:
                ByteGrid.of(quantizer)
        except UnsupportedError as error:
            return str(error)
        return source.qkv.simulated

    @exact
    def forward(self, hidden_states: Tensor, output_attentions: bool | None = None) -> tuple[Tensor, None]:
        """Attend within [batch, height, width, channels]; returns the same shape, and None for the weights."""
        kernel = kernel_of(self.qkv, hidden_states)
        if kernel is None:
            return super().forward(hidden_states, output_attentions)
        batch, height, width, channels = hidden_states.shape
        query, key, value = self._project(kernel, hidden_states.reshape(-1, channels), groups=batch)
        grid = self._grids["query"]
        exact = query.float().sub_(grid.zero)
        shares = self.position_shares(exact * grid.scale, (height, width))
        if height * width <= _SMALL:
            mixed = self._attend_small(exact, key, value, shares, (height, width))
        else:
            mixed = self._attend_in_pieces(query, key, value, shares, (height, width))
        mixed = mixed.reshape(batch, self.heads, height * width, -1).transpose(1, 2)
        out: Tensor = self.proj(mixed.reshape(batch, height, width, channels))
        return out, None

    def _project(self, kernel: IntegerLinear, tokens: Tensor, *, groups: int) -> list[Tensor]:
        """Codes of q, k and v, each [groups·heads, tokens, c]."""
        width = tokens.shape[1]
        grids = self._grids
        found: list[list[Tensor]] = [[], [], []]
        for some in tokens.split(_TOKENS):
            joint = kernel(kernel.source.encode(some))
            for index, role in enumerate(("query", "key", "value")):
                found[index].append(grids[role].encode(joint[:, index * width : (index + 1) * width]))
        shape = (groups, -1, self.heads, width // self.heads)
        split = [torch.cat(pieces).reshape(shape).transpose(1, 2) for pieces in found]
        return [one.reshape(groups * self.heads, one.shape[2], -1) for one in split]

    def _attend_small(
        self, query: Tensor, key: Tensor, value: Tensor, shares: Shares | None, size: tuple[int, int]
    ) -> Tensor:
        """Some groups at a time; the operands are whole numbers, held in float32, which keeps their products exact."""
        grids, found = self._grids, []
        step = grids["weights"].scale * grids["value"].scale
        count = max(1, _LOGITS // query.shape[1] ** 2)
        for start in range(0, len(query), count):
            some = slice(start, start + count)
            keys = key[some].float().sub_(grids["key"].zero)
            values = value[some].float().sub_(grids["value"].zero)
            logits = torch.bmm(query[some], keys.transpose(1, 2)).mul_(self._logit_step)
            own = None if shares is None else (shares[0][some], shares[1][some])
            add_positions(logits, own, size)
            weights = grids["weights"].quantizer(torch.softmax(logits, dim=-1), whole=True)
            found.append(torch.bmm(weights, values).mul_(step))
        return torch.cat(found)

    def _attend_in_pieces(
        self, query: Tensor, key: Tensor, value: Tensor, shares: Shares | None, size: tuple[int, int]
    ) -> Tensor:
        """One group after the other, some rows of queries at a time."""
        grids, width = self._grids, size[1]
        rows = max(1, _LOGITS // key.shape[1] // width)
        out = torch.empty(query.shape, dtype=torch.float32)
        for group in range(len(query)):
            own = None if shares is None else (shares[0][group, None], shares[1][group, None])
            keys = ByteMatrix(key[group], grids["key"], step=self._logit_step, rows=rows * width)
            step = grids["weights"].scale * grids["value"].scale
            values = ByteMatrix(value[group], grids["value"], step=step, rows=rows * width, transposed=True)
            for start in range(0, size[0], rows):
                place = slice(start * width, (start + rows) * width)
                joint = None if own is None else joint_positions(own, size, rows=slice(start, start + rows))[0]
                logits = keys.times(query[group, place], grids["query"], onto=joint)
                weights = grids["weights"].encode(torch.softmax(logits, dim=-1), spent=True)
                out[group, place] = values.times(weights, grids["weights"])
        return out

    @property
    def _logit_step(self) -> float:
        return self.scale * (self._grids["query"].scale * self._grids["key"].scale)
