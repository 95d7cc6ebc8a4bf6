"""Products whose last digits do not matter."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mixqsam.numeric import rough
from mixqsam.numeric.rough import apply_linear, multiply_in_bfloat16, multiply_roughly, roughen

_GENERATOR = torch.Generator().manual_seed(0)
_LEFT = torch.randn(2, 40, 64, generator=_GENERATOR)
_RIGHT = torch.randn(2, 64, 30, generator=_GENERATOR)


def test_a_small_product_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)
    assert torch.equal(multiply_roughly(_LEFT, _RIGHT), _LEFT @ _RIGHT)


def test_a_large_product_is_exact_where_bfloat16_is_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rough, "_LARGE", 1)
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: False)
    assert torch.equal(multiply_roughly(_LEFT, _RIGHT), _LEFT @ _RIGHT)


def test_an_operand_is_rounded_once_for_several_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)
    assert roughen(_LEFT, columns=30) is _LEFT
    monkeypatch.setattr(rough, "_LARGE", 1)
    short = roughen(_LEFT, columns=30)
    assert short.dtype == torch.bfloat16
    assert torch.equal(multiply_roughly(short, _RIGHT), multiply_roughly(_LEFT, _RIGHT))


def test_the_error_of_a_large_product_has_less_than_a_percent_of_its_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rough, "_LARGE", 1)
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)
    exact, found = _LEFT @ _RIGHT, multiply_roughly(_LEFT, _RIGHT)
    error = found - exact
    assert found.dtype == torch.float32
    assert 0 < error.norm() / exact.norm() < 0.01
    assert abs(float((error * exact).sum() / exact.square().sum())) < 1e-3


def share_of(found: Tensor, exact: Tensor) -> float:
    """The error's norm as a share of the norm."""
    return float((found - exact).detach().norm() / exact.detach().norm())


@pytest.mark.parametrize("bias", [True, False])
def test_a_large_linear_is_rounded_and_a_small_one_is_not(monkeypatch: pytest.MonkeyPatch, *, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 30, bias=bias)
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)
    with torch.no_grad():
        exact = linear(_LEFT)
        assert torch.equal(apply_linear(linear, _LEFT), exact)
        monkeypatch.setattr(rough, "_LARGE", 1)
        assert 0 < share_of(apply_linear(linear, _LEFT), exact) < 0.01


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [True, False])
def test_pieces_of_a_product_and_their_gradients_are_nearly_exact(groups: int, *, transposed: bool) -> None:
    left, right = _LEFT[:groups].clone(), _RIGHT[:groups].clone()
    if transposed:  # as k is
        right = right.transpose(1, 2).contiguous().transpose(1, 2)
    leaves = [one.requires_grad_() for one in (left, right)]
    slope = torch.randn(groups, 40, 30, generator=torch.Generator().manual_seed(1))
    exact = left @ right
    found = multiply_in_bfloat16(left, right)
    assert found.dtype == torch.float32
    assert 0 < share_of(found, exact) < 0.01
    # What follows may write into the result.
    (found.mul_(2) * slope).sum().backward()
    gradients = [one.grad for one in leaves]
    expected = torch.autograd.grad((exact * 2 * slope).sum(), leaves)
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert gradient is not None
        assert 0 < share_of(gradient, wanted) < 0.01


@pytest.fixture
def asks_again() -> Iterator[None]:
    """What the processor has is asked once; here, in the test and after it."""
    rough._has_bfloat16.cache_clear()
    yield
    rough._has_bfloat16.cache_clear()


@pytest.mark.usefixtures("asks_again")
@pytest.mark.parametrize(
    ("flags", "expected"), [({"avx512_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)]
)
def test_the_processor_says_whether_it_multiplies_bfloat16(
    flags: dict[str, bool], *, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert rough._has_bfloat16() == expected


@pytest.mark.usefixtures("asks_again")
def test_a_torch_that_does_not_know_the_processor_multiplies_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not rough._has_bfloat16()
