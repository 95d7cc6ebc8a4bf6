"""The image encoder as a graph: frame [1, 3, S, S] → embedding [1, C, S/16, S/16]."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from mixqsam.exporting.activations import find_activation
from mixqsam.exporting.arrays import array
from mixqsam.exporting.graph import Graph
from mixqsam.exporting.layers import Layers
from mixqsam.exporting.parts import FLOAT, Operand, has_signed_right, thirds
from mixqsam.exporting.signed import Signed, has_signed_products, mix_signed, with_constants, write_signed
from mixqsam.numeric.attention import VisionAttention, relative_table
from mixqsam.sam.load import Sam

# Logits of one slice of a global attention, and those of an attention that is written in one piece, at most.
_LOGITS = 1 << 21
_Moved = TypeVar("_Moved", Operand, Signed)


def write_encoder(graph: Graph, sam: Sam, frame: str, *, output: str, sliced: bool) -> dict[str, str]:
    """Add the encoder to a graph.

    Args:
        graph: it grows.
        sam: a quantized model, packed or fake-quantized.
        frame: value [1, 3, S, S], normalised and padded.
        output: name of the embedding.
        sliced: global attention goes slice by slice (ONNX Scan), so that its logits are never all in memory;
            otherwise it is written whole, for runtimes that fuse it.

    Returns:
        Units whose products stay in float arithmetic, and why.
    """
    return _Encoder(graph, sam, sliced=sliced).write(frame, output)


class _Encoder:
    def __init__(self, graph: Graph, sam: Sam, *, sliced: bool) -> None:
        self.graph, self.layers, self.sliced = graph, Layers(graph, sam.rest), sliced
        self.encoder = sam.model.vision_encoder
        config = sam.config.vision_config
        self.side = config.image_size // config.patch_size
        self.width = config.hidden_size
        self.activate = find_activation(config.hidden_act, field="vision_config.hidden_act")

    def write(self, frame: str, output: str) -> dict[str, str]:
        graph, layers, encoder = self.graph, self.layers, self.encoder
        patches = encoder.patch_embed.projection
        weight = layers.tensor("vision_encoder.patch_embed.projection.weight", patches.weight)
        bias = graph.constant(array(patches.bias))
        hidden = graph.add("Conv", frame, weight, bias, strides=list(patches.stride), dilations=[1, 1])
        hidden = graph.transpose(hidden, 0, 2, 3, 1)
        if encoder.pos_embed is not None:
            hidden = graph.add("Add", hidden, layers.tensor("vision_encoder.pos_embed", encoder.pos_embed))
        hidden = graph.reshape(hidden, 1, self.side**2, self.width)
        for index, layer in enumerate(encoder.layers):
            hidden = self._layer(hidden, layer, f"vision_encoder.layers.{index}")
        hidden = graph.transpose(graph.reshape(hidden, 1, self.side, self.side, self.width), 0, 3, 1, 2)
        neck = encoder.neck
        hidden = layers.convolution(hidden, neck.conv1, unit="vision_encoder.neck.conv1")
        hidden = layers.norm_of_channels(hidden, neck.layer_norm1)
        hidden = layers.convolution(hidden, neck.conv2, unit="vision_encoder.neck.conv2")
        graph.add("Identity", layers.norm_of_channels(hidden, neck.layer_norm2), outputs=[output])
        return layers.float_units

    def _layer(self, hidden: str, layer: Any, name: str) -> str:
        """One block; hidden is [1, tokens, channels]."""
        graph, layers = self.graph, self.layers
        attended = layers.norm(hidden, layer.layer_norm1)
        window = layer.window_size
        if window:
            attended = self._attend(self._windows(attended, window), layer.attn, f"{name}.attn", side=window)
            attended = self._joined(attended, window)
        else:
            attended = self._attend(attended, layer.attn, f"{name}.attn", side=self.side)
        hidden = graph.add("Add", hidden, attended)
        wide = layers.linear(layers.norm(hidden, layer.layer_norm2), layer.mlp.lin1, unit=f"{name}.mlp.lin1")
        wide = self.activate(graph, wide)
        return graph.add("Add", hidden, layers.linear(wide, layer.mlp.lin2, unit=f"{name}.mlp.lin2"))

    def _windows(self, hidden: str, window: int) -> str:
        """[1, tokens, c] → [windows, window², c], zeros at the lower and right borders."""
        graph, side, width = self.graph, self.side, self.width
        grid, lacking = graph.reshape(hidden, 1, side, side, width), -side % window
        if lacking:
            grid = graph.add("Pad", grid, graph.constant([0, 0, 0, 0, 0, lacking, lacking, 0], np.int64))
        count = (side + lacking) // window
        parts = graph.reshape(grid, count, window, count, window, width)
        return graph.reshape(graph.transpose(parts, 0, 2, 1, 3, 4), count**2, window**2, width)

    def _joined(self, windows: str, window: int) -> str:
        """The inverse of `_windows`."""
        graph, side, width = self.graph, self.side, self.width
        count = -(-side // window)
        parts = graph.transpose(graph.reshape(windows, count, count, window, window, width), 0, 2, 1, 3, 4)
        grid = graph.reshape(parts, 1, count * window, count * window, width)
        if side % window:
            ends = [graph.constant(v, np.int64) for v in ([0, 0], [side, side], [1, 2])]
            grid = graph.add("Slice", grid, *ends)
        return graph.reshape(grid, 1, side**2, width)

    def _attend(self, hidden: str, attention: VisionAttention, name: str, *, side: int) -> str:
        """[groups, side², channels] → the same."""
        graph, layers, tokens = self.graph, self.layers, side**2
        if not self.sliced and has_signed_products(attention):
            mixed = self._mix_signed(hidden, attention, name, side=side)
        else:
            mixed = self._mix(hidden, attention, name, side=side)
        mixed = graph.reshape(graph.transpose(mixed, 0, 2, 1, 3), -1, tokens, self.width)
        return layers.linear(mixed, attention.proj, unit=f"{name}.proj")

    def _mix(self, hidden: str, attention: VisionAttention, name: str, *, side: int) -> str:
        """[groups, side², channels] → [groups, heads, side², c]."""
        graph, layers, heads = self.graph, self.layers, attention.heads
        tokens = side**2
        parts = thirds(attention.qkv, self.width)
        queries, keys, values = self._project(
            hidden, attention, name, parts, partial(self._operand, attention), tokens=tokens
        )
        shares = self._shares(queries.restore(graph, queries.value), attention, name, side=side)
        if self.sliced and tokens**2 > _LOGITS:
            return self._in_slices(queries, keys, values, attention, name, shares, side=side)
        scaled = queries.restore(graph, queries.value, times=attention.scale)
        logits = graph.add("MatMul", scaled, keys.restore(graph, keys.value))
        if shares is not None:
            logits = _with_shares(graph, logits, shares, (-1, heads, *[side] * 4), (-1, heads, tokens, tokens))
        weights = layers.activation(graph.add("Softmax", logits, axis=-1), attention.av.left, unit=f"{name}.av")
        return graph.add("MatMul", weights, values.restore(graph, values.value))

    def _mix_signed(self, hidden: str, attention: VisionAttention, name: str, *, side: int) -> str:
        """`_mix` with products of signed bytes, and with the shares of relative positions as one mask."""
        graph, tokens = self.graph, side**2
        query, key, value = thirds(attention.qkv, self.width)
        parts = query, key, with_constants(value, attention.av.right, heads=attention.heads)
        operands = self._project(hidden, attention, name, parts, self._signed, tokens=tokens)
        shares = self._shares(operands[0].restored(graph), attention, name, side=side)
        mask = shares and graph.reshape(graph.add("Add", *shares), -1, attention.heads, tokens, tokens)
        return mix_signed(self.layers, operands, attention, mask, unit=name)

    def _operand(self, attention: VisionAttention, found: str, quantizer: nn.Module, unit: str) -> Operand:
        signed = any(
            quantizer is product.right and has_signed_right(product.left, quantizer)
            for product in (attention.qk, attention.av)
        )
        return Operand(self.layers, found, quantizer, unit=unit, together=not self.sliced, signed=signed)

    def _signed(self, found: str, quantizer: nn.Module, unit: str) -> Signed:
        del unit
        return write_signed(self.layers, found, quantizer)

    def _project(
        self,
        hidden: str,
        attention: VisionAttention,
        name: str,
        parts: tuple[nn.Module, nn.Module, nn.Module],
        operand: Callable[[str, Any, str], _Moved],
        *,
        tokens: int,
    ) -> tuple[_Moved, _Moved, _Moved]:
        """q, kᵀ and v, [groups, heads, …], each by a layer of its own: what is quantized first is moved as bytes."""
        graph, operands = self.graph, []
        for part, quantizer, product, axes in zip(
            parts,
            (attention.qk.left, attention.qk.right, attention.av.right),
            ("qk", "qk", "av"),
            ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)),
            strict=True,
        ):
            found = operand(self.layers.linear(hidden, part, unit=f"{name}.qkv"), quantizer, f"{name}.{product}")
            found.value = graph.transpose(graph.reshape(found.value, 0, tokens, attention.heads, -1), *axes)
            operands.append(found)
        return operands[0], operands[1], operands[2]

    def _shares(self, query: str, attention: VisionAttention, name: str, *, side: int) -> tuple[str, str] | None:
        """Relative positions' shares, [groups, heads, side, side, side, 1] and [groups, heads, side, side, 1, side]."""
        graph, heads = self.graph, attention.heads
        if attention.rel_pos_h is None or attention.rel_pos_w is None:
            return None
        vertical = self._table(attention.rel_pos_h, f"{name}.rel_pos_h", side)
        horizontal = self._table(attention.rel_pos_w, f"{name}.rel_pos_w", side)
        grid = graph.reshape(query, -1, heads, side, side, self.width // heads)
        rows = graph.add("MatMul", grid, vertical)
        columns = graph.transpose(graph.add("MatMul", graph.transpose(grid, 0, 1, 3, 2, 4), horizontal), 0, 1, 3, 2, 4)
        return (
            graph.reshape(rows, -1, heads, side, side, side, 1),
            graph.reshape(columns, -1, heads, side, side, 1, side),
        )

    def _table(self, embedding: Tensor, name: str, side: int) -> str:
        """Embeddings of distances, [side, c, side]; runtimes make it once, when a session starts."""
        graph = self.graph
        if len(embedding) != 2 * side - 1:
            return graph.constant(array(relative_table(embedding, side).transpose(1, 2)))
        place = np.arange(side)
        distances = graph.constant(place[:, None] - place[None, :] + side - 1, np.int64)
        return graph.transpose(graph.add("Gather", self.layers.tensor(name, embedding), distances, axis=0), 0, 2, 1)

    def _in_slices(
        self,
        queries: Operand,
        keys: Operand,
        values: Operand,
        attention: VisionAttention,
        name: str,
        shares: tuple[str, str] | None,
        *,
        side: int,
    ) -> str:
        """Head after head, some rows of queries at a time."""
        graph, heads, tokens = self.graph, attention.heads, side**2
        deep = self.width // heads
        rows = max(n for n in range(1, side + 1) if side % n == 0 and n * side * tokens <= _LOGITS)
        count = side // rows
        around = [
            (graph.reshape(queries.value, heads, count, rows * side, deep), (count, rows * side, deep), queries.kind),
            (graph.reshape(keys.value, heads, deep, tokens), (deep, tokens), keys.kind),
            (graph.reshape(values.value, heads, tokens, deep), (tokens, deep), values.kind),
        ]
        for share, ends in zip(shares or (), ((side, 1), (1, side)), strict=False):
            shape = (count, rows, side, *ends)
            around.append((graph.reshape(share, heads, *shape), shape, FLOAT))

        def one_head(outer: Graph, inputs: list[str]) -> str:
            query, key, value, *own = inputs

            def some_rows(inner: Graph, parts: list[str]) -> str:
                scaled = queries.restore(inner, parts[0], times=attention.scale)
                logits = inner.add("MatMul", scaled, keys.restore(inner, key))
                if shares is not None:
                    logits = _with_shares(inner, logits, parts[1:], (rows, side, side, side), (rows * side, tokens))
                weights = inner.add("Softmax", logits, axis=-1)
                weights = self.layers.activation(weights, attention.av.left, unit=f"{name}.av", graph=inner)
                return inner.add("MatMul", weights, values.restore(inner, value))

            pieces: list[tuple[str, tuple[int, ...], Any]] = [(query, (rows * side, deep), queries.kind)]
            pieces += [(one, shape[1:], FLOAT) for one, (_, shape, _) in zip(own, around[3:], strict=True)]
            return outer.scan(some_rows, pieces, output=(rows * side, deep))

        mixed = graph.scan(one_head, around, output=(count, rows * side, deep))
        return graph.reshape(mixed, 1, heads, tokens, deep)


def _with_shares(graph: Graph, logits: str, shares: Sequence[str], grid: Sequence[int], flat: Sequence[int]) -> str:
    """Logits with their shares added: seen as a grid, and flat again."""
    logits = graph.reshape(logits, *grid)
    for share in shares:
        logits = graph.add("Add", logits, share)
    return graph.reshape(logits, *flat)
