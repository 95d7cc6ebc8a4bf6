"""TinyViT (arXiv 2207.10666) as MobileSAM and light SAM-HQ use it, in plain torch.

It is written here because timm's needs torchvision, which mixqsam does not install. Every batch normalisation is
folded into its convolution when a checkpoint is read (`mobile_sam_checkpoint`), so convolutions have biases.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixqsam.numeric.modules import Mlp, Product


class TinyVitSizes(Protocol):
    """The sizes of a TinyViT; stage 0 has convolutions, the stages 1, 2, … have attention.

    Attributes:
        num_channels: of the image.
        patch_kernel: 3, and the patch embedding divides the resolution by 4; or 1, and it keeps the resolution.
        embed_dims: channels of each stage.
        depths: blocks of each stage.
        num_heads: of each stage with attention.
        window_sizes: of each stage with attention.
        expansion: hidden channels of a block in stage 0, over its channels.
        mlp_ratio: hidden features of an MLP, over its channels.
        local_kernel: side of the depthwise convolution between attention and MLP.
    """

    num_channels: int
    patch_kernel: int
    embed_dims: Sequence[int]
    depths: Sequence[int]
    num_heads: Sequence[int]
    window_sizes: Sequence[int]
    expansion: float
    mlp_ratio: float
    local_kernel: int


class PatchEmbedding(nn.Module):
    """Two convolutions with a GELU between them: image → first map."""

    def __init__(self, sizes: TinyVitSizes) -> None:
        super().__init__()
        width, side = sizes.embed_dims[0], sizes.patch_kernel
        stride = 2 if side == 3 else 1
        self.conv1 = nn.Conv2d(sizes.num_channels, width // 2, side, stride=stride, padding=side // 2)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(width // 2, width, side, stride=stride, padding=side // 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map [batch, 3, S, S] to [batch, C, S/4, S/4] (S for a kernel of 1)."""
        out: Tensor = self.conv2(self.act(self.conv1(pixels)))
        return out


class MBConv(nn.Module):
    """Expand by 1×1, depthwise 3×3, reduce by 1×1; the last GELU follows the sum with the input."""

    def __init__(self, channels: int, *, expansion: float) -> None:
        super().__init__()
        hidden = round(channels * expansion)
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.act1 = nn.GELU()
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act2 = nn.GELU()
        self.conv3 = nn.Conv2d(hidden, channels, 1)
        self.act3 = nn.GELU()

    def forward(self, maps: Tensor) -> Tensor:
        """Map [batch, C, h, w] to the same shape."""
        hidden = activated(self.act2, self.conv2(activated(self.act1, self.conv1(maps))))
        return activated(self.act3, self.conv3(hidden) + maps)


class PatchMerging(nn.Module):
    """From one stage to the next: 1×1, depthwise 3×3 with the stride, 1×1."""

    def __init__(self, channels: int, wider: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, wider, 1)
        self.act1 = nn.GELU()
        self.conv2 = nn.Conv2d(wider, wider, 3, stride=stride, padding=1, groups=wider)
        self.act2 = nn.GELU()
        self.conv3 = nn.Conv2d(wider, wider, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map [batch, C, h, w] to [batch, C', h/stride, w/stride]."""
        hidden = activated(self.act2, self.conv2(activated(self.act1, self.conv1(maps))))
        out: Tensor = self.conv3(hidden)
        return out


def activated(act: nn.Module, maps: Tensor) -> Tensor:
    """An activation function of maps whose channels are last in memory.

    It gets them as tokens: PyTorch has a faster function, with other last digits, for what is contiguous.
    """
    out: Tensor = act(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return out


class WindowAttention(nn.Module):
    """Attention within a window, with a learned bias for each absolute offset of rows and columns.

    The input's normalisation belongs to it. `qk` and `av` are the two products.
    """

    def __init__(self, channels: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.scale: float = (channels // heads) ** -0.5
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.qk = Product()
        self.av = Product()
        self.proj = nn.Linear(channels, channels)
        # Row-major over (row offset, column offset), as the released checkpoints have them.
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [windows, window², C] to the same shape."""
        out: Tensor = self.proj(self.mix(tokens, self.position_biases()))
        return out

    def mix(self, tokens: Tensor, biases: Tensor) -> Tensor:
        """What is projected, [windows, window², C], with the position biases."""
        windows, count, channels = tokens.shape
        # The rows of qkv are sorted by head, and within a head by query, key, value.
        qkv = self.qkv(self.norm(tokens)).reshape(windows, count, self.heads, 3, channels // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        query, query_step = self.qk.operand("left", query)
        key, key_step = self.qk.operand("right", key)
        value, value_step = self.av.operand("right", value)
        logits: Tensor = self.qk(query, key.transpose(-2, -1)).mul_(self.scale * (query_step * key_step))
        weights, weights_step = self.av.operand("left", torch.softmax(logits.add_(biases), dim=-1))
        mixed: Tensor = self.av(weights, value)
        if weights_step * value_step != 1:
            mixed = mixed.mul_(weights_step * value_step)
        return mixed.transpose(1, 2).reshape(windows, count, channels)

    def position_biases(self) -> Tensor:
        """The bias of every pair of tokens, [heads, window², window²]."""
        place = torch.arange(self.window, device=self.attention_biases.device)
        offset = (place[:, None] - place[None, :]).abs()
        index = offset[:, None, :, None] * self.window + offset[None, :, None, :]
        return self.attention_biases[:, index.reshape(self.window**2, self.window**2)]


class TinyVitBlock(nn.Module):
    """x + attention in windows, a depthwise convolution, x + MLP."""

    def __init__(self, channels: int, *, heads: int, window: int, sizes: TinyVitSizes) -> None:
        super().__init__()
        side = sizes.local_kernel
        self.attn = WindowAttention(channels, heads=heads, window=window)
        self.local_conv = nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels)
        self.mlp_norm = nn.LayerNorm(channels)
        hidden = round(channels * sizes.mlp_ratio)
        self.mlp = Mlp(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Map [batch, C, h, w] to the same shape."""
        tokens = maps.permute(0, 2, 3, 1)
        windows = split_windows(tokens, self.attn.window)
        tokens = tokens + join_windows(self.attn(windows), self.attn.window, tuple(tokens.shape))
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = (tokens + self.mlp(self.mlp_norm(tokens))).permute(0, 3, 1, 2)
        return out


def split_windows(tokens: Tensor, side: int) -> Tensor:
    """[batch, h, w, C], padded with zeros below and at the right to whole windows → [windows, side², C].

    The padding takes part in attention: TinyViT has no mask for it.
    """
    batch, height, width, channels = tokens.shape
    tokens = functional.pad(tokens, (0, 0, 0, -width % side, 0, -height % side))
    rows, columns = tokens.shape[1] // side, tokens.shape[2] // side
    grid = tokens.reshape(batch, rows, side, columns, side, channels).transpose(2, 3)
    return grid.reshape(batch * rows * columns, side * side, channels)


def join_windows(windows: Tensor, side: int, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `split_windows`, for a map of `shape` [batch, h, w, C]; the padding is cut off."""
    batch, height, width, channels = shape
    rows, columns = -(-height // side), -(-width // side)
    grid = windows.reshape(batch, rows, columns, side, side, channels).transpose(2, 3)
    return grid.reshape(batch, rows * side, columns * side, channels)[:, :height, :width]


class Stage(nn.Module):
    """Blocks of one width, and the merge to the next stage where there is one."""

    def __init__(self, index: int, sizes: TinyVitSizes) -> None:
        super().__init__()
        width, last = sizes.embed_dims[index], len(sizes.embed_dims) - 1
        self.blocks = nn.ModuleList(_make_block(index, sizes) for _ in range(sizes.depths[index]))
        self.downsample: nn.Module = nn.Identity()
        if index < last:
            wider = sizes.embed_dims[index + 1]
            # MobileSAM keeps the resolution in the last merge, so that 1024 pixels give 64 × 64 places.
            self.downsample = PatchMerging(width, wider, stride=1 if index == last - 1 else 2)

    def forward(self, maps: Tensor) -> Tensor:
        """Map [batch, C, h, w] to the next stage's [batch, C', h', w']."""
        for block in self.blocks:
            maps = block(maps)
        out: Tensor = self.downsample(maps)
        return out


def _make_block(stage: int, sizes: TinyVitSizes) -> nn.Module:
    width = sizes.embed_dims[stage]
    if stage == 0:
        return MBConv(width, expansion=sizes.expansion)
    return TinyVitBlock(width, heads=sizes.num_heads[stage - 1], window=sizes.window_sizes[stage - 1], sizes=sizes)


class TinyVit(nn.Module):
    """Patch embedding and stages, without a neck or a head."""

    def __init__(self, sizes: TinyVitSizes) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(sizes)
        self.layers = nn.ModuleList(Stage(index, sizes) for index in range(len(sizes.embed_dims)))

    def features(self, pixels: Tensor) -> list[Tensor]:
        """What each stage gives of [batch, 3, S, S], behind its merge.

        The last map is [batch, C, S/stride, S/stride]; see `mobile_sam_config.total_stride`.
        """
        # With the channels last in memory, tokens are maps without a copy, and convolutions are faster.
        maps: list[Tensor] = [self.patch_embed(pixels).contiguous(memory_format=torch.channels_last)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[1:]
