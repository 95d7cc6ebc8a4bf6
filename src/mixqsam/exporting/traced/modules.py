"""Encoder and decoder of any family as modules that take and give tensors alone, which is what can be traced."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mixqsam.exporting.traced.prompts import embed
from mixqsam.families.family import Family


class Encoding(nn.Module):
    """A frame [1, 3, S, S] → the maps, in the family's order.

    Args:
        model: the whole model.
        family: its family.
    """

    def __init__(self, model: nn.Module, family: Family) -> None:
        super().__init__()
        self.model, self._family = model, family

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """The maps."""
        return tuple(self._family.encode(self.model, frame).values())


class Decoding(nn.Module):
    """Maps and prompts → logits and predicted IoU of four masks.

    Args:
        model: the whole model.
        family: its family.
        names: of the maps, in order.
    """

    def __init__(self, model: nn.Module, family: Family, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self._family, self._names = model, family, tuple(names)

    def forward(
        self, maps: Sequence[Tensor], points: Tensor, labels: Tensor, mask: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts.

        Args:
            maps: in the order of the names, each of one image.
            points: [P, N, 2] in the frame's pixels.
            labels: [P, N], see `mixqsam.exporting.traced.prompts.embed`.
            mask: [1, 1, 4h, 4w], to start from.
            has_mask: [1]; the mask counts if it is above 0.

        Returns:
            Logits [P, 4, 4h, 4w] and predicted IoU [P, 4]: the one mask of `multimask=False`, then the three others.
        """
        named = dict(zip(self._names, maps, strict=True))
        prompts = embed(self.model, self._family, points, labels, mask, has_mask)
        found = [self._family.decode(self.model, named, prompts, multimask=many) for many in (False, True)]
        logits, scores = (torch.cat(parts, dim=2)[0] for parts in zip(*found, strict=True))
        return logits, scores
