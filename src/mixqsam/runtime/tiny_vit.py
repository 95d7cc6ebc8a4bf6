"""TinyViT with bytes between products, some rows or windows at a time, so that wide values stay in the cache."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixqsam.families.tiny_vit import MBConv, PatchMerging, WindowAttention
from mixqsam.numeric.derived import exact
from mixqsam.runtime.kernels import IntegerLinear
from mixqsam.runtime.packed import PackedConv2d, kernel_of, wants_gradients

# Values of the widest map of a block that are held at once: 2 MB.
_VALUES = 1 << 19
# Logits of windows that are carried through product, softmax and product at once: 4 MB.
_LOGITS = 1 << 20


class _Integer(nn.Module):
    """Takes the place of a module and has its parts; maps have their channels last here."""

    def __init__(self, source: nn.Module) -> None:
        nn.Module.__init__(self)
        for name, part in source.named_children():
            if isinstance(part, PackedConv2d):
                part.turns_maps = False
            self.add_module(name, part)


class IntegerMBConv(_Integer, MBConv):
    """An inverted bottleneck whose 1×1 convolutions multiply bytes."""

    @exact
    def forward(self, maps: Tensor) -> Tensor:
        """Map [batch, C, h, w] to the same shape."""
        block = _rows_of(self, maps)
        if block is None:
            return super().forward(maps)
        tokens = maps.permute(0, 2, 3, 1)
        out = torch.empty(tokens.shape)
        for one, place in zip(tokens, out, strict=True):
            for rows, reduced in block.run(one):
                place[rows] = self.act3(reduced.add_(one[rows]))
        return out.permute(0, 3, 1, 2)


class IntegerPatchMerging(_Integer, PatchMerging):
    """A merge whose 1×1 convolutions multiply bytes."""

    @exact
    def forward(self, maps: Tensor) -> Tensor:
        """Map [batch, C, h, w] to [batch, C', h/stride, w/stride]."""
        block = _rows_of(self, maps)
        if block is None:
            return super().forward(maps)
        images = [torch.cat([rows for _, rows in block.run(one)]) for one in maps.permute(0, 2, 3, 1)]
        return torch.stack(images).permute(0, 3, 1, 2)


class IntegerWindowAttention(_Integer, WindowAttention):
    """Attention of some windows at a time."""

    def __init__(self, source: WindowAttention) -> None:
        super().__init__(source)
        self.heads, self.window, self.scale = source.heads, source.window, source.scale
        self.attention_biases = source.attention_biases

    @exact
    def forward(self, tokens: Tensor) -> Tensor:
        """Map [windows, window², C] to the same shape."""
        if kernel_of(self.qkv, tokens) is None or wants_gradients(self, tokens):
            return super().forward(tokens)
        count = max(1, _LOGITS // (self.heads * tokens.shape[1] ** 2))
        biases = self.position_biases()
        out: Tensor = self.proj(torch.cat([self.mix(some, biases) for some in tokens.split(count)]))
        return out


# What takes the place of a module of this class.
TINY_VIT: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    MBConv: IntegerMBConv,
    PatchMerging: IntegerPatchMerging,
    WindowAttention: IntegerWindowAttention,
}


def _rows_of(block: nn.Module, maps: Tensor) -> "_Rows | None":
    """What computes a block for such an input; None where a 1×1 convolution is float, or the middle one rounds sums."""
    middle = block.conv2
    if not isinstance(middle, PackedConv2d) or not middle.is_exact or wants_gradients(block, maps):
        return None
    expand, reduce = (kernel_of(cast("nn.Module", layer), maps) for layer in (block.conv1, block.conv3))
    return None if expand is None or reduce is None else _Rows(block, expand, reduce)


class _Rows:
    """1×1, depthwise, 1×1, with a GELU behind the first and the second, of some rows of a map at a time.

    Args:
        block: has the layers.
        expand: the kernel of the first 1×1 convolution.
        reduce: that of the last.
    """

    def __init__(self, block: nn.Module, expand: IntegerLinear, reduce: IntegerLinear) -> None:
        self._expand, self._reduce = expand, reduce
        self._acts = cast("nn.Module", block.act1), cast("nn.Module", block.act2)
        self._middle = cast("PackedConv2d", block.conv2)
        self._factors = self._middle.factors

    def run(self, tokens: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Map [h, w, C] to slices of the output's rows and their values [rows, w', C']."""
        middle, act = self._middle, self._acts[1]
        padding = (0, int(middle.padding[1]))
        for rows, steps in self._padded(tokens):
            product = middle.convolve(steps[None].permute(0, 3, 1, 2), self._factors, padding=padding)
            hidden = act(product.permute(0, 2, 3, 1))[0]
            codes = self._reduce.source.encode(hidden.reshape(-1, hidden.shape[2]), spent=True)
            yield rows, self._reduce(codes).reshape(*hidden.shape[:2], -1)

    def _padded(self, tokens: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the depthwise convolution's output, and the rows of its input that they need, in steps.

        Rows that two pieces need are made once. Beyond the map they are zeros.
        """
        (side, stride, border), (height, width) = self._middle.vertical, tokens.shape[:2]
        last = (height + 2 * border - side) // stride + 1
        count = max(1, _VALUES // (width * self._middle.shape[0] * stride))
        band = torch.zeros((count - 1) * stride + side, width, self._middle.shape[0])
        held, ready = border, 0
        for top in range(0, last, count):
            bottom = min(top + count, last)
            needed = (bottom - top - 1) * stride + side
            steps = self._wide_steps(tokens[ready : ready + needed - held])
            band[held : held + len(steps)] = steps
            band[held + len(steps) : needed] = 0
            ready += len(steps)
            yield slice(top, bottom), band[:needed]
            held = side - stride
            band[:held] = band[needed - held : needed].clone()

    def _wide_steps(self, tokens: Tensor) -> Tensor:
        """[rows, w, C] behind the first convolution, the GELU and the quantizer of the depthwise convolution."""
        codes = self._expand.source.encode(tokens.reshape(-1, tokens.shape[2]))
        hidden = self._expand.activated(codes, self._acts[0]).reshape(*tokens.shape[:2], self._middle.shape[0])
        steps: Tensor = self._middle.input(hidden.permute(2, 0, 1), whole=True).permute(1, 2, 0)
        return steps
