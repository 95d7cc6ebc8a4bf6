"""Channels of like range share an affine grid (AHCPTQ); see docs/method.md, “Channel-aware grouping”."""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixqsam.numeric.activation_quantizer import AffineQuantizer, demand
from mixqsam.numeric.affine import AffineGrid


class GroupedQuantizer(AffineQuantizer):
    """Channels in groups, each group with its own affine grid (AHCPTQ's channel-aware grouping).

    See docs/method.md, “Channel-aware grouping”.

    Attributes:
        scale, zero: float32 [groups].
        group: of each channel (the last axis), float32 whole numbers [channels].
    """

    kind = "grouped"
    deployed_groups = 4
    fields: ClassVar = {"scale": (1, torch.float32), "zero": (1, torch.uint8), "group": (1, torch.uint8)}
    group: Tensor

    def __init__(self, bits: int, *, scale: Tensor, zero: Tensor, group: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self._keep(scale=scale, zero=zero, group=group)

    @classmethod
    def restore(cls, bits: int, tensors: Mapping[str, Tensor]) -> "GroupedQuantizer":
        """From `scale`, `zero` and `group`."""
        scale, zero, group = tensors["scale"], tensors["zero"].float(), tensors["group"]
        demand(len(scale) == len(zero) > 0, "as many scales as zeros are needed")
        demand(bool((scale > 0).all()) and bool((zero < 2**bits).all()), "a scale or zero off its grid")
        demand(len(group) > 0 and int(group.max()) < len(scale), "a channel in a group that does not exist")
        return cls(bits, scale=scale, zero=zero, group=group)

    @property
    def channels(self) -> int:
        """Channels that it knows the group of."""
        return len(self.group)

    @property
    def groups(self) -> int:
        """Groups that it has now."""
        return len(self.scale)

    def spread(self, values: Tensor) -> Tensor:
        """The value of each channel's group: [channels]."""
        return values[self.group.long()]

    def with_scale(self, scale: Tensor) -> "GroupedQuantizer":
        """The same groups with other scales."""
        return GroupedQuantizer(self.bits, scale=scale, zero=self.zero, group=self.group)

    def merged(self, groups: int) -> "GroupedQuantizer":
        """At most `groups` groups, by k-means on the ends of the channels' ranges.

        A merged group spans from the mean low to the mean high of its channels.
        """
        if self.groups <= groups:
            return self
        grid = self.grid
        ends = torch.stack([-grid.zero * grid.scale, (2**grid.bits - 1 - grid.zero) * grid.scale], dim=1)
        group = torch.from_numpy(_clustered(ends.double().cpu().numpy(), groups)).to(ends.device)
        means = torch.stack([ends[group == index].mean(dim=0) for index in range(int(group.max()) + 1)])
        merged = AffineGrid.from_range(means[:, 0], means[:, 1], bits=grid.bits)
        return GroupedQuantizer(grid.bits, scale=merged.scale, zero=merged.zero, group=group)

    def forward(self, values: Tensor, *, whole: bool = False) -> Tensor:
        """Project values [..., channels]."""
        del whole
        return self.grid.project(values)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, groups={len(self.scale)}, channels={len(self.group)}"


def _clustered(points: NDArray[np.float64], count: int) -> NDArray[Any]:
    """The cluster of each point [points, axes] by k-means, numbered from 0 without gaps; at most `count` clusters."""
    from scipy.cluster.vq import kmeans2  # noqa: PLC0415  (nobody who only loads a model needs it)

    spread = np.maximum(points.std(axis=0), 1e-12)
    with warnings.catch_warnings():
        # Where channels are alike there are fewer clusters than asked for, which is as good.
        warnings.simplefilter("ignore")
        _, labels = kmeans2(points / spread, count, minit="++", rng=np.random.default_rng(0))
    numbered: NDArray[Any] = np.unique(labels, return_inverse=True)[1]
    return numbered
