"""Encoder and decoder of any family as modules that take and give tensors alone, which is what can be traced."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mixqsam.exporting.traced.prompts import embed
from mixqsam.exporting.traced.repeated import computed_once
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

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The maps of a frame."""
        (frame,) = values
        return tuple(self._family.encode(self.model, frame).values())


class Decoding(nn.Module):
    """Maps and prompts → logits and predicted IoU of four masks.

    Args:
        model: the whole model.
        family: its family.
        names: of the maps, in order.
        repeated: names of modules that give the same for one mask and for three; see `find_repeated`.
    """

    def __init__(self, model: nn.Module, family: Family, names: Sequence[str], repeated: Sequence[str] = ()) -> None:
        super().__init__()
        self.model, self._family, self._names, self._repeated = model, family, tuple(names), tuple(repeated)

    def forward(self, *values: Tensor) -> tuple[Tensor, Tensor]:
        """Decode P prompts.

        Args:
            values: the maps of one image in the order of the names, then points, labels, a mask to start from, and
                whether there is one: see `mixqsam.exporting.traced.prompts.embed`.

        Returns:
            Logits [P, 4, 4h, 4w] and predicted IoU [P, 4]: the one mask of `multimask=False`, then the three others.
        """
        *maps, points, labels, mask, has_mask = values
        named = dict(zip(self._names, maps, strict=True))
        prompts = embed(self.model, self._family, points, labels, mask, has_mask)
        with computed_once([self.model.get_submodule(name) for name in self._repeated]):
            found = [self._family.decode(self.model, named, prompts, multimask=many) for many in (False, True)]
        logits, scores = (torch.cat(parts, dim=2)[0] for parts in zip(*found, strict=True))
        return logits, scores
