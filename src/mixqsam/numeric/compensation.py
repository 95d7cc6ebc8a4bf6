"""Compensation in closed form: move a weight, or choose its rounding, so that a layer's output errs less.

See docs/method.md, “Compensation”.

Weights are [groups, rows, d] in float64: the rows of a group are its output channels, d the weights of each. With X̂ the
quantized input, E = X − X̂ the error of it and ŵ the deployed weight, the output errs by WX − ŴX̂ = WE + (W − Ŵ)X̂.
"""

import torch
from torch import Tensor

from mixqsam.errors import NumericError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.moments import MeanMoments

# Columns that are rounded before what they push on the others is worked off.
_BLOCK = 32
# A Cholesky factor that fails is tried again with more damping: by this factor, up to this number of times.
_MORE, _TRIES = 10.0, 8


def ridge(weight: Tensor, moments: MeanMoments, *, damping: float) -> Tensor:
    """δ = W·EX̂ᵀ(X̂X̂ᵀ + λI)⁻¹: what to add to a weight so that it undoes the error of its input (ERQ, 2407.06794).

    Args:
        weight: W [groups, rows, d].
        moments: of the input.
        damping: λ, as a share of the mean diagonal of X̂X̂ᵀ.

    Returns:
        δ [groups, rows, d].

    Raises:
        NumericError: the moments are not finite.
    """
    lower = _factor(moments.hessian, damping)
    wanted = (weight.double() @ moments.cross).transpose(-2, -1)
    return torch.cholesky_solve(wanted, lower).transpose(-2, -1)


def gptq(weight: Tensor, hessian: Tensor, grid: AffineGrid, *, damping: float, ordered: bool = True) -> Tensor:
    """Round column by column; what a column errs by is made up for by those that are still open (GPTQ, 2210.17323).

    With X̂X̂ᵀ + λI = RRᵀ, R upper: q_j = Q(w_j + Σ_{i<j} (w_i − q_i)·R_ij/R_jj). This form of the same rounding
    (LDLQ, 2307.13304) needs no inverse. A column whose input is always zero pushes on no other, and is rounded to
    nearest.

    Args:
        weight: what to round, [groups, rows, d].
        hessian: X̂X̂ᵀ [groups, d, d].
        grid: scale and zero point of each row, [groups·rows, 1].
        damping: λ, as a share of the mean diagonal of X̂X̂ᵀ.
        ordered: columns with the largest diagonal go first, each group in its own order.

    Returns:
        Codes, uint8 [groups·rows, d], in the weight's own order of columns.

    Raises:
        NumericError: the moments are not finite.
    """
    groups, rows, width = weight.shape
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    order = diagonal.argsort(dim=-1, descending=True, stable=True) if ordered else _in_turn(groups, width, hessian)
    pushed = _pushes(_permuted(hessian, order), damping).float()
    # Codes are small numbers: the loop over columns takes float32, the factor before it float64.
    exact = weight.float().transpose(-2, -1).gather(1, order[:, :, None].expand(-1, -1, rows)).contiguous()
    open_ = exact.clone()
    scale, zero = (one.float().reshape(groups, 1, rows) for one in (grid.scale, grid.zero))
    codes = torch.empty(groups, width, rows, dtype=torch.uint8, device=weight.device)
    for start in range(0, width, _BLOCK):
        piece = slice(start, min(start + _BLOCK, width))
        errors, codes[:, piece] = _round_block(
            open_[:, piece], exact[:, piece], pushed[:, piece, piece], scale=scale, zero=zero, last=2**grid.bits - 1
        )
        open_[:, piece.stop :] += pushed[:, piece, piece.stop :].transpose(-2, -1) @ errors
    back = order.argsort(dim=-1)[:, :, None].expand(-1, -1, rows)
    # A weight of another layout would be multiplied in another order, and its last digits would differ.
    return codes.gather(1, back).transpose(-2, -1).reshape(groups * rows, width).contiguous()


def _round_block(
    columns: Tensor, exact: Tensor, pushed: Tensor, *, scale: Tensor, zero: Tensor, last: int
) -> tuple[Tensor, Tensor]:
    """What each column errs by, w_i − q_i, and its codes; [groups, columns, rows] each."""
    errors, codes = torch.empty_like(columns), torch.empty_like(columns)
    for index in range(columns.shape[1]):
        column = columns[:, index : index + 1]
        code = (column / scale).round_().add_(zero).clamp_(0, last)
        error = exact[:, index : index + 1] - (code - zero) * scale
        columns[:, index + 1 :] += pushed[:, index, index + 1 :, None] * error
        errors[:, index : index + 1], codes[:, index : index + 1] = error, code
    return errors, codes.to(torch.uint8)


def settle(weight: Tensor, hessian: Tensor, grid: AffineGrid, codes: Tensor, *, damping: float, passes: int) -> Tensor:
    """Move single codes as long as that lowers ‖(W − Ŵ)X̂‖² + λ‖W − Ŵ‖²: coordinate descent, column by column.

    Args:
        weight: what is rounded, [groups, rows, d].
        hessian: X̂X̂ᵀ [groups, d, d].
        grid: scale and zero point of each row, [groups·rows, 1].
        codes: where to begin, uint8 [groups·rows, d].
        damping: λ, as a share of the mean diagonal of X̂X̂ᵀ.
        passes: over all columns, at most.

    Returns:
        Codes shaped as `codes`, with no larger error.
    """
    groups, rows, width = weight.shape
    hessian = _damped(hessian, damping)
    scale, zero = (one.double().reshape(groups, 1, rows) for one in (grid.scale, grid.zero))
    wanted = weight.double().transpose(-2, -1).contiguous()
    found = codes.double().reshape(groups, rows, width).transpose(-2, -1).contiguous()
    error = wanted - (found - zero) * scale
    slope = hessian @ error
    for _ in range(passes):
        before = found.clone()
        for start in range(0, width, _BLOCK):
            piece = slice(start, min(start + _BLOCK, width))
            moved = _settle_block(
                found[:, piece], slope[:, piece], hessian[:, piece, piece], scale=scale, last=2**grid.bits - 1
            )
            if bool(moved.any()):
                slope -= hessian[:, :, piece] @ moved
        if torch.equal(before, found):
            break
    return found.transpose(-2, -1).reshape(groups * rows, width).to(torch.uint8).contiguous()


def _settle_block(codes: Tensor, slope: Tensor, hessian: Tensor, *, scale: Tensor, last: int) -> Tensor:
    """Move some columns' codes, in place; returns by how much the weight moved, [groups, columns, rows]."""
    start, slope = codes.clone(), slope.clone()
    for index in range(codes.shape[1]):
        best = slope[:, index : index + 1] / (hessian[:, index, index, None, None] * scale)
        old = codes[:, index : index + 1].clone()
        codes[:, index : index + 1] = (old + best).round_().clamp_(0, last)
        slope -= hessian[:, :, index, None] * ((codes[:, index : index + 1] - old) * scale)
    return (codes - start) * scale


class OutputErrors:
    """Mean over positions of (WX − ŴX̂)² for each output channel, for any Ŵ of one W.

    Args:
        weight: W [groups, rows, d].
        moments: of the input, not centred, with EEᵀ.
    """

    def __init__(self, weight: Tensor, moments: MeanMoments) -> None:
        self._exact, self._moments = weight.double(), moments
        # Products in float32 are exact enough to compare; their sums are made in float64.
        exact = weight.float()
        self._hessian = moments.hessian.float()
        self._inherited = ((exact @ moments.noise.float()).mul_(exact)).sum(-1, dtype=torch.float64)
        self._cross = exact @ moments.cross.float()

    def __call__(self, deployed: Tensor, *, shift: Tensor | None = None) -> Tensor:
        """The errors of a deployed weight Ŵ [groups, rows, d], whose bias takes up `shift`: [groups·rows]."""
        left = (self._exact - deployed.double()).float()
        product = (left @ self._hessian).add_(self._cross, alpha=2).mul_(left)
        errors = (self._inherited + product.sum(-1, dtype=torch.float64)).reshape(-1)
        if shift is not None:
            errors = errors + shift * (shift - 2 * mean_error(self._exact, deployed, self._moments))
        return errors.clamp_(min=0)


def mean_error(weight: Tensor, deployed: Tensor, moments: MeanMoments) -> Tensor:
    """The mean of WX − ŴX̂, which a bias can take up: [groups·rows]."""
    exact, left = weight.double(), weight.double() - deployed.double()
    mean = exact @ moments.error[:, :, None] + left @ moments.quantized[:, :, None]
    return mean.reshape(-1)


def _damped(hessian: Tensor, damping: float) -> Tensor:
    """H + λI; the mean diagonal that λ is relative to is that of each group; a group without any input becomes I."""
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None]
    damped = hessian.clone()
    damped.diagonal(dim1=-2, dim2=-1).add_(torch.where(mean > 0, damping * mean, torch.ones_like(mean)))
    return damped


def _factor(hessian: Tensor, damping: float) -> Tensor:
    """The lower Cholesky factor of H + λI, with a larger λ where the numbers demand it."""
    for _ in range(_TRIES):
        lower, failed = torch.linalg.cholesky_ex(_damped(hessian, damping))
        if not bool(failed.any()):
            factor: Tensor = lower
            return factor
        damping = max(damping, 1e-8) * _MORE
    raise NumericError("The moments of a layer's input are not finite; the checkpoint or an image is damaged.")


def _pushes(hessian: Tensor, damping: float) -> Tensor:
    """R_ij/R_jj, with RRᵀ = H + λI and R upper: the factor of the matrix turned back to front, turned again."""
    upper = _factor(hessian.flip(-2, -1), damping).flip(-2, -1)
    return upper / upper.diagonal(dim1=-2, dim2=-1)[:, None]


def _permuted(hessian: Tensor, order: Tensor) -> Tensor:
    return torch.stack([one[places][:, places] for one, places in zip(hessian, order, strict=True)])


def _in_turn(groups: int, width: int, like: Tensor) -> Tensor:
    return torch.arange(width, device=like.device).expand(groups, width)
