"""Inner products of gradients with rounding errors, at many bit-widths; each value is read from memory once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.quantizers import ActivationQuantizer, Quantizer

# Elements that are rounded at once, at all bit-widths: smaller pieces spend more time on starting threads, and larger
# ones leave the processor's cache.
_PIECE = 1 << 20
# Of a weight, whose gradients are held for each prompt of a decoder.
_WEIGHT_PIECE = 1 << 18


def error_products(
    quantizers: Sequence[ActivationQuantizer], values: Tensor, gradient: Tensor, *, groups: int
) -> Tensor:
    """⟨gradient, Q(values) − values⟩ for each quantizer, and ⟨gradient², (Q(values) − values)²⟩, in float64.

    Args:
        quantizers: one for each bit-width.
        values: the operand.
        gradient: of the same shape.
        groups: number of parts of the first axes, each with its own sum.

    Returns:
        [2, groups, quantizers].
    """
    products = torch.zeros(2, groups, len(quantizers), dtype=torch.float64, device=values.device)
    affine = [one for one in quantizers if isinstance(one, Quantizer)]
    if len(affine) < len(quantizers):
        for place, quantizer in enumerate(quantizers):
            errors = (quantizer(values) - values).mul_(gradient).reshape(groups, -1)
            products[0, :, place] = errors.sum(1, dtype=torch.float64)
            products[1, :, place] = errors.square_().sum(1, dtype=torch.float64)
        return products
    limits = [quantizer.limits for quantizer in affine]
    rows, slopes = values.reshape(groups, -1), gradient.reshape(groups, -1)
    for group in range(groups):
        for piece, slope in zip(rows[group].split(_PIECE), slopes[group].split(_PIECE), strict=True):
            products[:, group] += _piece_products(limits, piece, slope)
    return products


def _piece_products(limits: Sequence[tuple[float, float, float, float]], values: Tensor, gradient: Tensor) -> Tensor:
    """What a piece that fits into the processor's cache adds to `error_products`, [2, quantizers]."""
    sums, squares = [], []
    errors = torch.empty_like(values)
    for step, per_step, low, high in limits:
        torch.mul(values, per_step, out=errors).round_().clamp_(low, high)
        # In one pass, with the other sign.
        torch.sub(values, errors, alpha=step, out=errors).mul_(gradient)
        sums.append(errors.sum())
        # `torch.dot` has one thread; two passes of all threads are faster.
        squares.append(errors.square_().sum())
    return torch.stack([torch.stack(sums).neg_(), torch.stack(squares)]).double()


def weight_error_products(weight: Tensor, grids: Sequence[AffineGrid], gradient: Tensor) -> Tensor:
    """As `error_products`, for a weight, some rows at a time.

    Args:
        weight: [channels, …].
        grids: of its channels, one for each bit-width.
        gradient: of each group, [groups, elements of the weight].

    Returns:
        [2, groups, grids].
    """
    rows = weight.detach().float().reshape(len(weight), -1)
    width, count = rows.shape[1], max(1, _WEIGHT_PIECE // rows.shape[1])
    products = torch.zeros(2, len(gradient), len(grids), dtype=torch.float64, device=weight.device)
    for start in range(0, len(rows), count):
        piece = slice(start, start + count)
        slope = gradient[:, start * width : (start + count) * width]
        squared = slope.square()
        for place, grid in enumerate(grids):
            part = AffineGrid(grid.bits, grid.scale[piece], grid.zero[piece])
            error = part.project(rows[piece]).sub_(rows[piece]).reshape(-1)
            products[0, :, place] += slope @ error
            products[1, :, place] += squared @ error.square_()
    return products
