"""Prompts as Meta's exported decoder takes them, embedded by any family's own code."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mixqsam.deployed.names import PADDING
from mixqsam.errors import InputError
from mixqsam.families.family import Family, Maps, PromptTensors

# The map of embedded prompts whose second last axis is that of tokens: one for each point, two for each box.
_TOKENS = "sparse"
# Labels of a box's first and second corner.
_CORNERS = (2, 3)


def embed(
    model: Any, family: Family, points: Tensor, labels: Tensor, mask: Tensor, has_mask: Tensor
) -> dict[str, Tensor]:
    """Embed points of every label: corners of boxes as the family embeds boxes, the others as its points.

    Args:
        model: the whole model.
        family: its family.
        points: [P, N, 2] in the frame's pixels.
        labels: [P, N]: 1 object, 0 background, 2 and 3 the corners of a box, −1 no point.
        mask: [1, 1, 4h, 4w].
        has_mask: [1]; the mask counts if it is above 0.

    Returns:
        What the family's decoder takes; tokens for padding are only those of points labelled −1.
    """
    without = family.embed(model, PromptTensors(None, points[None], labels.clamp(max=1).long()[None]))
    given = family.embed(model, PromptTensors(None, None, None, mask[None]))
    # Each point as a box without extent, of which it is both corners.
    boxes = torch.cat([points, points], dim=-1).reshape(1, -1, 4)
    corners = family.embed(model, PromptTensors(boxes, None, None))[_TOKENS][:, :, :2].unflatten(1, labels.shape)
    tokens = without[_TOKENS][:, :, : labels.shape[1]]
    for index, label in enumerate(_CORNERS):
        tokens = torch.where((labels == label)[None, :, :, None], corners[:, :, :, index], tokens)
    others = {name: torch.where(has_mask > 0, given[name], without[name]) for name in without if name != _TOKENS}
    return {**others, _TOKENS: tokens}


@torch.no_grad()
def measure_padding(model: Any, family: Family, *, side: int, mask_side: int) -> Mapping[str, int]:
    """How many points labelled −1 stand for what a family's own code adds to prompts; see `PADDING`.

    Args:
        model: the whole model.
        family: its family.
        side: of the frame.
        mask_side: of a mask to start from.

    Raises:
        InputError: the family embeds prompts otherwise than `embed`.
    """
    points, labels = torch.tensor([[[0.3, 0.6], [0.7, 0.2]]]) * side, torch.tensor([[1, 0]])
    box, mask = torch.tensor([[[0.1, 0.2, 0.8, 0.9]]]) * side, torch.linspace(-4, 4, mask_side**2)
    mask = mask.reshape(1, 1, 1, mask_side, mask_side)
    examples = {
        "boxes": PromptTensors(box, None, None),
        "points": PromptTensors(None, points[None], labels[None]),
        "masks": PromptTensors(None, None, None, mask),
    }
    padding = {kind: _padding(model, family, examples[kind], mask) for kind in PADDING}
    both = PromptTensors(box, points[None], labels[None], mask)
    if _padding(model, family, both, mask) != padding["boxes"]:
        raise _otherwise(family)
    return padding


def _padding(model: Any, family: Family, prompts: PromptTensors, mask: Tensor) -> int:
    """How many tokens the family adds; checked to be those of points labelled −1."""
    points, labels = [torch.zeros(1, 0, 2)], [torch.zeros(1, 0)]
    if prompts.points is not None and prompts.labels is not None:
        points.append(prompts.points[0])
        labels.append(prompts.labels[0])
    if prompts.boxes is not None:
        points.append(prompts.boxes.reshape(1, 2, 2))
        labels.append(torch.tensor([_CORNERS]))
    expected = family.embed(model, prompts)
    count = expected[_TOKENS].shape[-2] - sum(part.shape[1] for part in points) if _TOKENS in expected else -1
    if count < 0:
        raise _otherwise(family)
    points.append(torch.zeros(1, count, 2))
    labels.append(-torch.ones(1, count))
    has_mask = torch.tensor([float(prompts.masks is not None)])
    found = embed(model, family, torch.cat(points, 1), torch.cat(labels, 1), mask[0], has_mask)
    if not _are_alike(found, expected):
        raise _otherwise(family)
    return count


def _are_alike(found: Maps, expected: Maps) -> bool:
    return found.keys() == expected.keys() and all(
        values.shape == expected[name].shape and torch.allclose(values, expected[name], atol=1e-5)
        for name, values in found.items()
    )


def _otherwise(family: Family) -> InputError:
    return InputError(f"Models of type {family.name!r} cannot be exported: they embed prompts otherwise than SAM.")
