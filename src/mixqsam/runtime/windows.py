"""How a map of tokens is cut to windows and heads, and joined again; bytes move in a quarter of the time of floats."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Windows of a map, which is filled up below and on the right.

    Attributes:
        batch, height, width: of the map.
        size: height and width of a window.
        heads: into which channels are split.
    """

    batch: int
    height: int
    width: int
    size: tuple[int, int]
    heads: int

    @classmethod
    def of(cls, tokens: Tensor, *, side: int, heads: int) -> "Windows":
        """Windows of a map [batch, height, width, channels]; a side of 0 stands for one window."""
        batch, height, width, _ = tokens.shape
        return cls(batch, height, width, (side, side) if side else (height, width), heads)

    @property
    def _counts(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return -(-self.height // self.size[0]), -(-self.width // self.size[1])

    def split(self, tokens: Tensor, *, fill: Tensor) -> Tensor:
        """[batch·height·width, channels] → [batch·windows·heads, tokens of a window, channels of a head].

        Args:
            tokens: any type.
            fill: [channels], what stands outside the map.
        """
        rows, columns = self._counts
        high, wide = self.size
        grid = tokens.view(self.batch, self.height, self.width, -1)
        if (rows * high, columns * wide) != (self.height, self.width):
            padded = fill.expand(self.batch, rows * high, columns * wide, -1).contiguous()
            padded[:, : self.height, : self.width] = grid
            grid = padded
        cut = grid.view(self.batch, rows, high, columns, wide, self.heads, -1).permute(0, 1, 3, 5, 2, 4, 6)
        return cut.reshape(self.batch * rows * columns * self.heads, high * wide, -1)

    def join(self, groups: Tensor) -> Tensor:
        """[batch·windows·heads, tokens of a window, channels of a head] → [batch·height·width, channels]."""
        rows, columns = self._counts
        high, wide = self.size
        cut = groups.view(self.batch, rows, columns, self.heads, high, wide, -1).permute(0, 1, 4, 2, 5, 3, 6)
        shape = (self.batch, self.height, self.width, self.heads, groups.shape[2])
        if (rows * high, columns * wide) == (self.height, self.width):
            return cut.reshape(self.batch * self.height * self.width, -1)
        grid = torch.empty(self.batch, rows * high, columns * wide, *shape[3:], dtype=groups.dtype)
        grid.view(self.batch, rows, high, columns, wide, *shape[3:]).copy_(cut)
        return grid[:, : self.height, : self.width].reshape(self.batch * self.height * self.width, -1)
