"""Compensation in closed form against least squares and the methods' definitions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixqsam.errors import NumericError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.compensation import OutputErrors, gptq, mean_error, ridge, settle
from mixqsam.numeric.moments import MeanMoments, Moments, gram, position_count, rows_at
from mixqsam.numeric.weights import quantize_weight, weight_grid
from tests.oracles import gptq_slowly, patches_slowly

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "dense": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 2)},
    "grouped": {"kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"kernel_size": 3, "groups": 4, "padding": 1, "stride": 2},
    "1x1": {"kernel_size": 1},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": "same"},
    "valid": {"kernel_size": 2, "padding": "valid"},
}


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def data(groups: int = 1, count: int = 200, width: int = 12, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Correlated inputs with a mean, and what a coarse quantizer makes of them."""
    exact = noise(groups, count, width, seed=seed) @ noise(groups, width, width, seed=seed + 100) + 0.7
    return exact, (exact / 1.5).round() * 1.5


def moments_of(exact: Tensor, quantized: Tensor, *, centred: bool = False) -> MeanMoments:
    found = Moments()
    for start in range(0, exact.shape[1], 64):
        found.update(exact[:, start : start + 64], quantized[:, start : start + 64])
    return found.means(centred=centred)


def grid_of(weight: Tensor, bits: int) -> AffineGrid:
    rows = weight.reshape(-1, weight.shape[-1])
    return weight_grid(rows, bits=bits, observer="omse", name="w")


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_rows_of_a_convolution_are_what_its_weights_meet(name: str) -> None:
    layer = nn.Conv2d(4, 8, **CONVOLUTIONS[name], bias=False)
    values = noise(2, 4, 7, 6, seed=2)
    count = position_count(layer, values.shape)
    rows = rows_at(layer, values, torch.arange(count))
    assert torch.equal(rows.double(), patches_slowly(layer, values))
    # So the convolution is a product with them.
    weight = layer.weight.reshape(layer.groups, 8 // layer.groups, -1)
    product = (rows @ weight.mT).transpose(0, 1).reshape(2, -1, 8).mT
    assert torch.allclose(product.reshape(layer(values).shape), layer(values), atol=1e-5)
    some = torch.tensor([count - 1, 0, 3])
    assert torch.equal(rows_at(layer, values, some), rows[:, some])


def test_rows_of_a_linear_are_its_tokens() -> None:
    layer, values = nn.Linear(5, 3), noise(2, 3, 4, 5, seed=3)
    assert position_count(layer, values.shape) == 24
    assert torch.equal(rows_at(layer, values, torch.tensor([23, 1])), values.reshape(24, 5)[[23, 1]][None])


@pytest.mark.parametrize("centred", [False, True])
def test_moments_of_batches_are_those_of_all_rows(centred: bool) -> None:
    exact, quantized = data(2)
    seen, unjudged = Moments(), Moments(judged=False)
    for piece in (slice(0, 50), slice(50, 120), slice(120, 200)):
        seen.update(exact[:, piece], quantized[:, piece])
        unjudged.update(exact[:, piece], quantized[:, piece])
    found = seen.means(centred=centred)
    assert not unjudged.means(centred=centred).noise.numel()
    assert torch.equal(unjudged.means(centred=centred).cross, found.cross)
    x, e = quantized.double(), (exact - quantized).double()
    assert seen.count == 200
    assert torch.allclose(found.quantized, x.mean(1), atol=1e-6)
    assert torch.allclose(found.error, e.mean(1), atol=1e-6)
    if centred:
        x, e = x - x.mean(1, keepdim=True), e - e.mean(1, keepdim=True)
    for ours, theirs in ((found.hessian, x.mT @ x), (found.cross, e.mT @ x), (found.noise, e.mT @ e)):
        assert torch.allclose(ours, theirs / 200, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [1, 512, 1100])
def test_half_of_a_symmetric_product_is_all_of_it(width: int) -> None:
    rows = torch.randn(2, 30, width, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(gram(rows), rows.transpose(1, 2) @ rows, atol=1e-4)
    assert torch.allclose(gram(rows), gram(rows).transpose(1, 2), atol=1e-4)


def test_moments_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="moments of no input"):
        Moments().means(centred=True)


@pytest.mark.parametrize("groups", [1, 3])
def test_ridge_is_the_solution_of_the_damped_least_squares_problem(groups: int) -> None:
    exact, quantized = data(groups)
    weight, damping = noise(groups, 4, 12, seed=5), 0.05
    moments = moments_of(exact, quantized)
    found = ridge(weight, moments, damping=damping)
    for group in range(groups):
        x, target = quantized[group].double(), ((exact - quantized)[group] @ weight[group].mT).double()
        strength = damping * float((x.square().sum(0) / len(x)).mean()) * len(x)
        stacked = torch.cat([x, strength**0.5 * torch.eye(12, dtype=torch.float64)])
        wanted = torch.linalg.lstsq(stacked, torch.cat([target, torch.zeros(12, 4, dtype=torch.float64)])).solution
        assert torch.allclose(found[group], wanted.mT, atol=1e-5)


def test_ridge_and_a_bias_take_most_of_the_error_away() -> None:
    exact, quantized = data(width=6)
    weight = noise(1, 4, 6, seed=6)
    moments = moments_of(exact, quantized, centred=True)
    moved = weight + ridge(weight, moments, damping=1e-6)
    shift = mean_error(weight, moved, moments)
    fitted = quantized[0].double() @ moved[0].mT + shift
    ones = torch.cat([quantized[0].double(), torch.ones(200, 1, dtype=torch.float64)], dim=1)
    target = (exact[0] @ weight[0].mT).double()
    best = ones @ torch.linalg.lstsq(ones, target).solution
    assert torch.allclose(fitted, best, atol=1e-3)


def test_output_errors_are_those_of_the_outputs() -> None:
    exact, quantized = data(2)
    weight, deployed = noise(2, 4, 12, seed=7), noise(2, 4, 12, seed=8)
    moments = moments_of(exact, quantized)
    left = exact.double() @ weight.double().mT - quantized.double() @ deployed.double().mT
    assert torch.allclose(mean_error(weight, deployed, moments), left.mean(1).reshape(-1), atol=1e-4)
    errors = OutputErrors(weight, moments)
    assert torch.allclose(errors(deployed), left.square().mean(1).reshape(-1), rtol=1e-4)
    shift = noise(8, seed=16).double()
    wanted = (left - shift.reshape(2, 1, 4)).square().mean(1).reshape(-1)
    assert torch.allclose(errors(deployed, shift=shift), wanted, rtol=1e-4)


@pytest.mark.parametrize(("groups", "width", "ordered"), [(1, 12, False), (1, 150, True), (3, 9, True)])
def test_gptq_rounds_as_its_definition(groups: int, width: int, ordered: bool) -> None:
    exact, quantized = data(groups, 3 * width, width)
    weight, damping = noise(groups, 4, width, seed=9).double(), 0.02
    hessian = moments_of(exact, quantized).hessian
    grid = grid_of(weight, 3)
    codes = gptq(weight, hessian, grid, damping=damping, ordered=ordered).reshape(groups, 4, width)
    assert codes.dtype == torch.uint8
    scale, zero = grid.scale.reshape(groups, 4), grid.zero.reshape(groups, 4)
    for group in range(groups):
        damped = hessian[group] + damping * hessian[group].diagonal().mean() * torch.eye(width)
        order = damped.diagonal().argsort(descending=True, stable=True) if ordered else torch.arange(width)
        for row in range(4):
            wanted = gptq_slowly(
                weight[group, row, order].numpy(),
                damped[order][:, order].numpy(),
                float(scale[group, row]),
                float(zero[group, row]),
                7,
            )
            assert codes[group, row, order].tolist() == wanted


@pytest.mark.parametrize("bits", [2, 4])
def test_gptq_errs_less_than_nearest_and_coordinate_descent_less_than_gptq(bits: int) -> None:
    exact, quantized = data(1, 300, 80)
    weight = noise(1, 16, 80, seed=10).double()
    moments = moments_of(exact, quantized)
    grid = grid_of(weight, bits)

    def error(codes: Tensor) -> float:
        left = weight - grid.decode(codes).double().reshape(weight.shape)
        return float(((left @ moments.hessian) * left).sum())

    nearest = quantize_weight(weight[0], grid).codes
    rounded = gptq(weight, moments.hessian, grid, damping=0.001)
    settled = settle(weight, moments.hessian, grid, rounded, damping=0.0, passes=50)
    assert error(settled) < error(rounded) < 0.7 * error(nearest)
    # No single code can be changed for the better.
    for column in range(0, 80, 7):
        for step in (-1, 1):
            moved = settled.int()
            moved[:, column] = (moved[:, column] + step).clamp(0, 2**bits - 1)
            left = weight - grid.decode(moved).double().reshape(weight.shape)
            errors = ((left @ moments.hessian) * left).sum(-1)
            left = weight - grid.decode(settled).double().reshape(weight.shape)
            assert bool((errors >= ((left @ moments.hessian) * left).sum(-1) - 1e-9).all())
    unchanged = settle(weight, moments.hessian, grid, settled, damping=0.0, passes=1)
    assert torch.equal(unchanged, settled)


def test_columns_without_input_are_rounded_to_nearest_and_push_on_none() -> None:
    exact, quantized = data(1, 200, 10)
    exact[..., 3] = quantized[..., 3] = 0
    weight = noise(1, 4, 10, seed=11).double()
    moments, grid = moments_of(exact, quantized), grid_of(weight, 3)
    codes = gptq(weight, moments.hessian, grid, damping=0.01)
    assert torch.equal(codes[:, 3], quantize_weight(weight[0], grid).codes[:, 3])
    others = [i for i in range(10) if i != 3]
    inner = moments.hessian[:, others][:, :, others]
    # λ is relative to the mean diagonal, which the dead column lowers.
    alone = gptq(weight[..., others], inner, grid, damping=0.01 * 0.9)
    assert torch.equal(codes[:, others], alone)
    assert not ridge(weight, moments, damping=0.01)[..., 3].any()


def test_a_layer_without_any_input_is_rounded_to_nearest() -> None:
    silent = torch.zeros(2, 50, 6)
    moments, weight = moments_of(silent, silent), noise(2, 3, 6, seed=12).double()
    grid = grid_of(weight, 4)
    codes = gptq(weight, moments.hessian, grid, damping=0.01)
    assert torch.equal(codes, quantize_weight(weight.reshape(6, 6), grid).codes)
    assert not ridge(weight, moments, damping=0.01).any()


def test_fewer_rows_than_columns_are_no_obstacle() -> None:
    exact, quantized = data(1, 5, 30)
    weight = noise(1, 4, 30, seed=13).double()
    moments, grid = moments_of(exact, quantized), grid_of(weight, 4)
    moved = weight + ridge(weight, moments, damping=0.0)
    assert bool(torch.isfinite(moved).all())
    codes = gptq(moved, moments.hessian, grid, damping=0.0)
    assert int(codes.max()) <= 15


def test_moments_that_are_not_finite_are_refused() -> None:
    broken = torch.full((1, 4, 4), float("nan"), dtype=torch.float64)
    weight = noise(1, 2, 4, seed=14).double()
    with pytest.raises(NumericError, match="not finite"):
        gptq(weight, broken, grid_of(weight, 4), damping=0.1)


def test_a_weighted_grid_has_the_least_weighted_error() -> None:
    weight = noise(3, 40, seed=15)
    importance = torch.from_numpy(np.geomspace(1e-3, 1e3, 40)).float()[None]
    plain = weight_grid(weight, bits=3, observer="omse", name="w")
    weighted = weight_grid(weight, bits=3, observer="omse", name="w", importance=importance)

    def error(grid: AffineGrid) -> Tensor:
        return ((grid.project(weight) - weight).square() * importance).sum(1)

    assert bool((error(weighted) <= error(plain)).all())
    assert bool((error(weighted) < error(plain)).any())
    even = weight_grid(weight, bits=3, observer="omse", name="w", importance=torch.ones(1, 40))
    squares = [(grid.project(weight) - weight).square().sum() for grid in (even, plain)]
    assert squares[0] <= squares[1] * 1.02
