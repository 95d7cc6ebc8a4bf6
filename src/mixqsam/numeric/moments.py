"""Second moments of a layer's input: all that compensation in closed form needs of it.

See docs/method.md, “Compensation”.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# Columns of a symmetric product that are computed at once; the half below them is a copy.
_STRIPE = 512


class Moments:
    """What is remembered of a layer's inputs, exact (X) and quantized (X̂), beside their number.

    With E = X − X̂ and columns as positions: X̂X̂ᵀ, EX̂ᵀ, EEᵀ and the sums of X̂ and E, in float64. Each batch is
    multiplied in float32; the sums over batches are exact to float64. Memory does not grow with the batches:
    3·groups·d² + 2·groups·d numbers, with d the weights that one output value sees.

    Args:
        judged: EEᵀ is wanted, which only `OutputErrors` needs.
    """

    def __init__(self, *, judged: bool = True) -> None:
        self.count, self._judged = 0, judged
        self._sums: tuple[Tensor, ...] | None = None

    def update(self, exact: Tensor, quantized: Tensor) -> None:
        """Take in the inputs of some positions, each [groups, positions, d], float32."""
        error = exact - quantized
        turned = error.transpose(-2, -1)
        new = (
            gram(quantized),
            turned @ quantized,
            gram(error) if self._judged else error.new_zeros(len(error), 0, 0),
            quantized.sum(1),
            error.sum(1),
        )
        self._add(tuple(one.double() for one in new), quantized.shape[1])

    def _add(self, new: tuple[Tensor, ...], count: int) -> None:
        self.count += count
        known = self._sums
        self._sums = new if known is None else tuple(a + b for a, b in zip(known, new, strict=True))

    def merged(self, other: "Moments") -> "Moments":
        """What both remember together; EEᵀ only if both have it."""
        both = Moments(judged=self._judged and other._judged)
        for one in (self, other):
            if one._sums is not None:
                hessian, cross, noise, *means = one._sums
                kept = noise if both._judged else noise[:, :0, :0]
                both._add((hessian, cross, kept, *means), one.count)
        return both

    def means(self, *, centred: bool) -> "MeanMoments":
        """The moments divided by the number of positions.

        Args:
            centred: about the means, as for a layer whose bias takes up whatever is constant.

        Raises:
            ValueError: nothing was taken in.
        """
        if self._sums is None or not self.count:
            raise ValueError("moments of no input")
        hessian, cross, noise, quantized, error = (one / self.count for one in self._sums)
        if centred:
            hessian = hessian - quantized[:, :, None] * quantized[:, None]
            cross = cross - error[:, :, None] * quantized[:, None]
            noise = noise - error[:, :, None] * error[:, None] if self._judged else noise
        return MeanMoments(hessian, cross, noise, quantized, error)


@dataclass(frozen=True)
class MeanMoments:
    """Moments for each position, float64.

    Attributes:
        hessian: X̂X̂ᵀ, [groups, d, d].
        cross: EX̂ᵀ, [groups, d, d].
        noise: EEᵀ, [groups, d, d]; empty where it was not wanted.
        quantized: mean of X̂, [groups, d].
        error: mean of E, [groups, d].
    """

    hessian: Tensor
    cross: Tensor
    noise: Tensor
    quantized: Tensor
    error: Tensor


def gram(rows: Tensor) -> Tensor:
    """XᵀX of [groups, positions, d] as [groups, d, d]; only half of a large product is computed."""
    width = rows.shape[-1]
    product = rows.new_empty(len(rows), width, width)
    for start in range(0, width, _STRIPE):
        stripe = slice(start, min(start + _STRIPE, width))
        product[:, stripe, start:] = rows[..., stripe].transpose(-2, -1) @ rows[..., start:]
        product[:, stripe.stop :, stripe] = product[:, stripe, stripe.stop :].transpose(-2, -1)
    return product


def position_count(layer: nn.Module, shape: torch.Size) -> int:
    """How many positions an input of that shape has: tokens of a linear, output positions of a convolution."""
    if isinstance(layer, nn.Conv2d):
        height, width = _output_size(layer, shape)
        return shape[0] * height * width
    return shape.numel() // shape[-1]


def rows_at(layer: nn.Module, values: Tensor, positions: Tensor) -> Tensor:
    """What the weights meet at some positions.

    Args:
        layer: a linear, or a convolution (with any stride, padding by zeros, dilation and groups).
        values: its input.
        positions: indices below `position_count`.

    Returns:
        [groups, positions, d]; d as in the rows of the weight, channels of the group × kernel.
    """
    if not isinstance(layer, nn.Conv2d):
        return values.reshape(-1, values.shape[-1])[positions][None]
    height, width = _output_size(layer, values.shape)
    padded = functional.pad(values, _padding(layer))
    images, channels, rows, columns = padded.stride()
    view = padded.as_strided(
        (padded.shape[0], padded.shape[1], height, width, *layer.kernel_size),
        (
            images,
            channels,
            rows * layer.stride[0],
            columns * layer.stride[1],
            rows * layer.dilation[0],
            columns * layer.dilation[1],
        ),
    )
    image, place = positions // (height * width), positions % (height * width)
    patches = view[image, :, place // width, place % width]
    return patches.reshape(len(positions), layer.groups, -1).transpose(0, 1).contiguous()


def _padding(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """Left, right, top, bottom."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":
        whole = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        (top, bottom), (left, right) = ((one // 2, one - one // 2) for one in whole)
        return left, right, top, bottom
    down, across = (int(one) for one in layer.padding)
    return across, across, down, down


def _output_size(layer: nn.Conv2d, shape: torch.Size) -> tuple[int, int]:
    left, right, top, bottom = _padding(layer)
    sides = (shape[2] + top + bottom, shape[3] + left + right)
    spans = (d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    height, width = ((side - span) // step + 1 for side, span, step in zip(sides, spans, layer.stride, strict=True))
    return height, width
