"""Logits at an image's size, beside PyTorch's interpolation."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mixqsam.drawing import Canvas
from mixqsam.resize import resized_size


def interpolate(values: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(values, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", [(300, 213), (20, 13), (7, 700), (1, 1), (64, 64)])
@pytest.mark.parametrize("stretches", [False, True], ids=["padded", "stretched"])
def test_logits_are_drawn_as_pytorch_interpolates(size: tuple[int, int], stretches: bool) -> None:
    logits = torch.randn(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    height, width = resized_size(*size, side=80)
    if stretches:
        expected = interpolate(logits, size)[0]
    else:
        expected = interpolate(interpolate(logits, (80, 80))[..., :height, :width], size)[0]
    canvas = Canvas(20, 80, (height, width), size, stretches)
    drawn = canvas.draw(logits[0].numpy())
    np.testing.assert_allclose(drawn, expected.numpy(), atol=2e-5)
    for threshold in (0.0, 0.5):
        np.testing.assert_array_equal(canvas.cut(logits[0].numpy(), threshold), drawn > threshold)
    assert canvas.cut(np.zeros((0, 20, 20), np.float32), 0.0).shape == (0, *size)
