"""The image encoder's attention and MLP with bytes flowing from one product to the next."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from mixqsam.numeric.attention import VisionAttention, add_positions, joint_positions
from mixqsam.numeric.derived import Derived, exact
from mixqsam.numeric.modules import Mlp
from mixqsam.runtime.kernels import ByteGrid, ByteMatrix, IntegerLinear, UnsupportedError, missing_kernels
from mixqsam.runtime.packed import PackedLinear, kernel_of
from mixqsam.runtime.windows import Windows

# Logits that are carried through product, softmax and product at once: 4 MB, which stay in the cache.
_LOGITS = 1 << 20
# Up to this number of tokens, the products are made for many heads and windows at once, on whole numbers in float.
_SMALL = 512
# Tokens that go through the wide layers at once.
TOKENS = 512

Shares = tuple[Tensor, Tensor]


def _same(tokens: Tensor) -> Tensor:
    return tokens


class IntegerMlp(Mlp):
    """lin1, GELU and lin2, some tokens at a time, so that the wide values between them stay in the cache."""

    def __init__(self, source: Mlp) -> None:
        super().__init__(source.lin1, source.act, source.lin2)

    @exact
    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [..., channels] to the same shape."""
        first, second = self._kernels(hidden_states)
        if first is None or second is None:
            return super().forward(hidden_states)
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        wide = (first.activated(first.source.encode(some), self.act) for some in tokens.split(TOKENS))
        codes = [second.source.encode(some, spent=True) for some in wide]
        found: Tensor = second(torch.cat(codes))
        return found.reshape(hidden_states.shape)

    def is_integer(self, values: Tensor) -> bool:
        """Whether such an input goes through integer kernels."""
        return None not in self._kernels(values)

    def _kernels(self, values: Tensor) -> tuple[IntegerLinear | None, IntegerLinear | None]:
        return kernel_of(self.lin1, values), kernel_of(self.lin2, values)


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
        if kernel_of(self.qkv, hidden_states) is None:
            return super().forward(hidden_states, output_attentions)
        windows = Windows.of(hidden_states, side=0, heads=self.heads)
        mixed = windows.join(self.attend(hidden_states, windows))
        out: Tensor = self.proj(mixed.view(hidden_states.shape))
        return out, None

    def attend(self, hidden_states: Tensor, windows: Windows, *, norm: Callable[[Tensor], Tensor] = _same) -> Tensor:
        """Attend within each window.

        Args:
            hidden_states: [batch, height, width, channels]; `qkv` must have an integer kernel for them.
            windows: of this map.
            norm: what tokens go through first; outside the map, tokens are zero behind it.

        Returns:
            The mixed values [batch·windows·heads, tokens of a window, channels of a head], float32.
        """
        query, key, value = self._project(hidden_states.reshape(-1, hidden_states.shape[-1]), windows, norm)
        grid = self._grids["query"]
        exact = query.float().sub_(grid.zero)
        shares = self.position_shares(exact * grid.scale, windows.size)
        if query.shape[1] <= _SMALL:
            return self._attend_small(exact, key, value, shares, windows.size)
        return self._attend_in_pieces(query, key, value, shares, windows.size)

    def _project(self, tokens: Tensor, windows: Windows, norm: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Codes of q, k and v, cut to windows and heads."""
        kernel = kernel_of(self.qkv, tokens)
        assert kernel is not None  # noqa: S101  (callers look first)
        width, grids = tokens.shape[1], [self._grids[role] for role in ("query", "key", "value")]
        found: list[list[Tensor]] = [[], [], []]
        for some in tokens.split(TOKENS):
            joint = kernel(kernel.source.encode(norm(some))).split(width, dim=1)
            for pieces, grid, part in zip(found, grids, joint, strict=True):
                pieces.append(grid.encode(part, spent=True))
        # A token of zeros is mapped to the bias.
        own = cast("PackedLinear", self.qkv).bias
        bias = torch.zeros(3 * width) if own is None else own
        fills = [grid.encode(part) for grid, part in zip(grids, bias.split(width), strict=True)]
        return [windows.split(torch.cat(pieces), fill=fill) for pieces, fill in zip(found, fills, strict=True)]

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
