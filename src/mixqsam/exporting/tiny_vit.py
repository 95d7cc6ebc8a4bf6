"""MobileSAM's image encoder as a graph: frame [1, 3, S, S] → embedding [1, C, S/16, S/16].

Maps have their channels last for ONNX Runtime, where a 1×1 convolution is a product that needs no grid for its output,
and first for OpenVINO, which fuses what follows a convolution into it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from mixqsam.exporting.depthwise import LastDepthwise, write_depthwise
from mixqsam.exporting.graph import Graph
from mixqsam.exporting.layers import Layers
from mixqsam.exporting.parts import Operand, as_linear, has_signed_right, linear_rows, weight_shape
from mixqsam.exporting.signed import Signed, has_signed_products, mix_signed, with_constants, write_signed
from mixqsam.exporting.strips import Strip, cut_rows, write_strips
from mixqsam.numeric.modules import StoredLayer
from mixqsam.numeric.quantizers import Quantizer
from mixqsam.sam.load import Sam


def write_tiny_vit(graph: Graph, sam: Sam, frame: str, *, output: str, sliced: bool) -> dict[str, str]:
    """Add the encoder to a graph; see `mixqsam.exporting.encoder.write_encoder`.

    Args:
        graph: it grows.
        sam: a quantized model, packed or fake-quantized.
        frame: value [1, 3, S, S], normalised and padded.
        output: name of the embedding.
        sliced: for ONNX Runtime; no attention here is large enough to be sliced, but its operands are moved as codes.

    Returns:
        Units whose products stay in float arithmetic, and why.
    """
    return _Encoder(graph, sam, channels_last=sliced).write(frame, output)


class _Encoder:
    def __init__(self, graph: Graph, sam: Sam, *, channels_last: bool) -> None:
        self.graph, self.layers, self.last = graph, Layers(graph, sam.rest), channels_last
        self.encoder = sam.model.vision_encoder
        self.side = sam.image_size
        self._offsets: dict[int, str] = {}

    def write(self, frame: str, output: str) -> dict[str, str]:
        graph, layers, encoder = self.graph, self.layers, self.encoder
        patches, name = encoder.patch_embed, "vision_encoder.patch_embed"
        maps = graph.add("Gelu", layers.convolution(frame, patches.conv1, unit=f"{name}.conv1"))
        maps = layers.convolution(maps, patches.conv2, unit=f"{name}.conv2")
        self.side //= patches.conv1.stride[0] * patches.conv2.stride[0]
        maps = graph.transpose(maps, 0, 2, 3, 1) if self.last else maps
        for stage, layer in enumerate(encoder.layers):
            maps = self._stage(maps, layer, f"vision_encoder.layers.{stage}")
        graph.add("Identity", self._neck(maps), outputs=[output])
        return layers.float_units

    def _stage(self, maps: str, stage: Any, name: str) -> str:
        for index, block in enumerate(stage.blocks):
            make = self._attention_block if hasattr(block, "attn") else self._convolution_block
            maps = make(maps, block, f"{name}.blocks.{index}")
        if hasattr(stage.downsample, "conv1"):
            maps = self._inverted(maps, stage.downsample, f"{name}.downsample")
            self.side //= stage.downsample.conv2.stride[0]
        return maps

    def _convolution_block(self, maps: str, block: Any, name: str) -> str:
        return self.graph.add("Gelu", self.graph.add("Add", self._inverted(maps, block, name), maps))

    def _inverted(self, maps: str, block: Any, name: str) -> str:
        """1×1, depthwise, 1×1, with a GELU behind the first and the second."""
        graph, layers, middle = self.graph, self.layers, block.conv2
        if not self.last:
            wide = graph.add("Gelu", self._pointwise(maps, block.conv1, f"{name}.conv1"))
            wide = write_depthwise(layers, wide, middle, unit=f"{name}.conv2", channels_last=False)
            return self._pointwise(graph.add("Gelu", wide), block.conv3, f"{name}.conv3")
        depthwise = LastDepthwise(layers, middle, unit=f"{name}.conv2")
        channels, _, kernel, _ = weight_shape(middle)

        def between(wide: str, strip: Strip) -> str:
            return graph.add("Gelu", depthwise.write(wide, strip))

        strips = cut_rows(
            self.side,
            row_bytes=4 * self.side * channels,
            kernel=kernel,
            stride=int(middle.stride[0]),
            padding=int(middle.padding[0]),
        )
        first, last = as_linear(block.conv1), as_linear(block.conv3)
        return self._widened(maps, first, last, f"{name}.conv1", f"{name}.conv3", strips, between)

    def _pointwise(self, maps: str, layer: Any, unit: str) -> str:
        if self.last:
            return self.layers.linear(maps, as_linear(layer), unit=unit, rank=4)
        return self.layers.convolution(maps, layer, unit=unit)

    def _mlp(self, tokens: str, mlp: Any, name: str) -> str:
        if not self.last:
            wide = self.graph.add("Gelu", self.layers.linear(tokens, mlp.lin1, unit=f"{name}.lin1", rank=4))
            return self.layers.linear(wide, mlp.lin2, unit=f"{name}.lin2", rank=4)
        strips = cut_rows(self.side, row_bytes=4 * self.side * weight_shape(mlp.lin1)[0])
        return self._widened(tokens, mlp.lin1, mlp.lin2, f"{name}.lin1", f"{name}.lin2", strips, lambda wide, _: wide)

    def _widened(
        self,
        maps: str,
        first: Any,
        last: Any,
        first_unit: str,
        last_unit: str,
        strips: list[Strip],
        between: Callable[[str, Strip], str],
    ) -> str:
        """A linear layer to more channels and a GELU, what lies between, and one to fewer channels, in strips."""
        graph, layers = self.graph, self.layers
        quantizer = first.input if isinstance(first, StoredLayer) else nn.Identity()
        # Cut as codes, which are a quarter as large.
        operand = Operand(layers, maps, quantizer, unit=first_unit, together=False)
        widening = layers.matrix(first, unit=first_unit, rank=4)
        narrowing = layers.matrix(last, unit=last_unit, rank=4)

        def write(part: str, strip: Strip) -> str:
            wide = graph.add("Gelu", layers.multiplied(operand.restore(graph, part), widening))
            return layers.multiplied(layers.input(between(wide, strip), last, unit=last_unit), narrowing)

        return write_strips(graph, operand.value, strips, write)

    def _attention_block(self, maps: str, block: Any, name: str) -> str:
        """Attention in windows, a depthwise convolution, an MLP."""
        graph, layers = self.graph, self.layers
        tokens = maps if self.last else graph.transpose(maps, 0, 2, 3, 1)
        tokens = graph.add("Add", tokens, self._attend(tokens, block.attn, f"{name}.attn"))
        if not self.last:
            tokens = graph.transpose(tokens, 0, 3, 1, 2)
        unit = f"{name}.local_conv"
        tokens = write_depthwise(layers, tokens, block.local_conv, unit=unit, channels_last=self.last)
        if not self.last:
            tokens = graph.transpose(tokens, 0, 2, 3, 1)
        tokens = graph.add("Add", tokens, self._mlp(layers.norm(tokens, block.mlp_norm), block.mlp, f"{name}.mlp"))
        return tokens if self.last else graph.transpose(tokens, 0, 3, 1, 2)

    def _attend(self, tokens: str, attention: Any, name: str) -> str:
        """[1, h, w, C] → the same."""
        graph, layers, side, window = self.graph, self.layers, self.side, attention.window
        if lacking := -side % window:
            # Before the normalisation: the padding takes part in attention as what a zero becomes there.
            tokens = graph.add("Pad", tokens, graph.constant([0, 0, 0, 0, 0, lacking, lacking, 0], np.int64))
        hidden = layers.norm(tokens, attention.norm)
        mix = self._mix_signed if not self.last and has_signed_products(attention) else self._mix
        return self._join(mix(hidden, attention, name), attention, f"{name}.proj")

    def _mix(self, hidden: str, attention: Any, name: str) -> str:
        """[1, h, w, C] → [windows, heads, window², c]."""
        graph, layers = self.graph, self.layers
        operands: list[Operand] = []
        lefts = nn.Identity(), attention.qk.left, attention.av.left
        for left, (part, quantizer, unit) in zip(lefts, self._parts(attention, name), strict=True):
            found = layers.linear(hidden, part, unit=f"{name}.qkv", rank=4)
            signed = has_signed_right(left, quantizer)
            operand = Operand(layers, found, quantizer, unit=unit, together=not self.last, signed=signed)
            operand.value = self._sorted(operand.value, attention, turned=len(operands) == 1)
            operands.append(operand)
        queries, keys, values = operands
        scaled = queries.restore(graph, queries.value, times=attention.scale)
        logits = graph.add("MatMul", scaled, keys.restore(graph, keys.value))
        logits = graph.add("Add", logits, self._biases(attention, f"{name}.attention_biases"))
        weights = layers.activation(graph.add("Softmax", logits, axis=-1), attention.av.left, unit=f"{name}.av")
        return graph.add("MatMul", weights, values.restore(graph, values.value))

    def _mix_signed(self, hidden: str, attention: Any, name: str) -> str:
        """`_mix` with products of signed bytes."""
        operands: list[Signed] = []
        for part, quantizer, _ in self._parts(attention, name):
            layer = with_constants(part, quantizer, heads=attention.heads) if len(operands) == 2 else part
            found = self.layers.linear(hidden, layer, unit=f"{name}.qkv", rank=4)
            signed = write_signed(self.layers, found, quantizer)
            signed.value = self._sorted(signed.value, attention, turned=len(operands) == 1)
            operands.append(signed)
        biases = self._biases(attention, f"{name}.attention_biases")
        return mix_signed(self.layers, (operands[0], operands[1], operands[2]), attention, biases, unit=name)

    def _parts(self, attention: Any, name: str) -> Iterator[tuple[nn.Module, nn.Module, str]]:
        """The layers of q, k and v, their quantizers, and the products that they belong to."""
        heads, deep = attention.heads, int(attention.norm.weight.shape[0]) // attention.heads
        quantizers = attention.qk.left, attention.qk.right, attention.av.right
        # The rows of qkv are sorted by head, and within a head by q, k, v.
        rows = torch.arange(3 * heads * deep).reshape(heads, 3, deep)
        for part, (quantizer, product) in enumerate(zip(quantizers, ("qk", "qk", "av"), strict=True)):
            yield linear_rows(attention.qkv, rows[:, part].reshape(-1)), quantizer, f"{name}.{product}"

    def _sorted(self, value: str, attention: Any, *, turned: bool) -> str:
        """[1, h, w, heads·c] → [windows, heads, window², c], or turned, [windows, heads, c, window²].

        Places are sorted by window together with the heads, behind the quantizer: bytes are moved, and only once.
        """
        graph, window, heads = self.graph, attention.window, attention.heads
        count = -(-self.side // window)
        grid = graph.reshape(value, count, window, count, window, heads, -1)
        if turned and not self.last:
            return graph.reshape(graph.transpose(grid, 0, 2, 4, 5, 1, 3), count**2, heads, -1, window**2)
        found = graph.reshape(graph.transpose(grid, 0, 2, 4, 1, 3, 5), count**2, heads, window**2, -1)
        # ONNX Runtime turns matrices faster than it sorts single bytes.
        return graph.transpose(found, 0, 1, 3, 2) if turned else found

    def _biases(self, attention: Any, name: str) -> str:
        """The bias of every pair of places, [1, heads, window², window²]; runtimes make it once, at the start."""
        graph, window = self.graph, attention.window
        if window not in self._offsets:
            place = np.arange(window)
            offset = np.abs(place[:, None] - place[None, :])
            index = offset[:, None, :, None] * window + offset[None, :, None, :]
            self._offsets[window] = graph.constant(index.reshape(1, window**2, window**2), np.int32)
        table = self.layers.tensor(name, attention.attention_biases)
        pairs = graph.add("Gather", table, self._offsets[window], axis=1)
        return graph.reshape(pairs, 1, attention.heads, window**2, window**2)

    def _join(self, mixed: str, attention: Any, unit: str) -> str:
        """[windows, heads, window², c] → [1, h, w, C], projected; the padding is cut off before that."""
        graph, layers, side, window = self.graph, self.layers, self.side, attention.window
        projection, heads = attention.proj, attention.heads
        stored = isinstance(projection, StoredLayer)
        # Grids of channels need the channels in their place.
        early = stored and isinstance(projection.input, Quantizer)
        count = -(-side // window)
        # A value that is cut at its ends right behind a product makes that product a float one in ONNX Runtime.
        mixed = graph.reshape(mixed, count**2, heads, window, window, -1)
        operand = Operand(
            layers, mixed, projection.input if early else nn.Identity(), unit=unit, together=not self.last
        )
        grid = graph.reshape(operand.value, count, count, heads, window, window, -1)
        whole = graph.reshape(graph.transpose(grid, 0, 3, 1, 4, 2, 5), 1, count * window, count * window, -1)
        if side % window:
            whole = graph.add("Slice", whole, *(graph.constant(v, np.int64) for v in ([0, 0], [side, side], [1, 2])))
        whole = operand.restore(graph, whole)
        if stored and not early:
            whole = layers.activation(whole, projection.input, unit=unit)
        return layers.product(whole, projection, unit=unit, rank=4)

    def _neck(self, maps: str) -> str:
        graph, layers, neck = self.graph, self.layers, self.encoder.neck
        name, norm = "vision_encoder.neck", layers.norm if self.last else layers.norm_of_channels
        maps = norm(self._pointwise(maps, neck.conv1, f"{name}.conv1"), neck.layer_norm1)
        maps = norm(self._dense(maps, neck.conv2, f"{name}.conv2"), neck.layer_norm2)
        return graph.transpose(maps, 0, 3, 1, 2) if self.last else maps

    def _dense(self, maps: str, layer: Any, unit: str) -> str:
        """A convolution that keeps the size; over patches of codes, where ONNX Runtime is to do it in whole numbers."""
        graph, layers, side = self.graph, self.layers, self.side
        if not self.last:
            return layers.convolution(maps, layer, unit=unit)
        if not isinstance(layer, StoredLayer) or not isinstance(layer.input, Quantizer):
            maps = layers.convolution(graph.transpose(maps, 0, 3, 1, 2), layer, unit=unit)
            return graph.transpose(maps, 0, 2, 3, 1)
        operand = Operand(layers, maps, layer.input, unit=unit, together=False)
        convolution: Any = layer
        kernel, border = layer.stored.shape[2:], [int(pad) for pad in convolution.padding]
        pads = graph.constant([0, *border, 0, 0, *border, 0], np.int64)
        padded = graph.add("Pad", operand.value, pads, graph.constant(int(layer.input.zero), np.uint8))
        axes, parts = graph.constant([1, 2], np.int64), []
        for place in np.ndindex(*kernel):
            ends = (graph.constant([at + more for at in place], np.int64) for more in (0, side))
            parts.append(graph.add("Slice", padded, *ends, axes))
        patches = operand.restore(graph, graph.add("Concat", *parts, axis=3))
        return layers.product(patches, as_linear(layer), unit=unit, rank=4)
