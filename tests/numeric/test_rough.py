"""Products whose last digits do not matter."""

from collections.abc import Iterator

import pytest
import torch

from mixqsam.numeric import rough
from mixqsam.numeric.rough import multiply_roughly, roughen

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
