"""Attention with the engine's products, as transformers' models call it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mixqsam.numeric import attend as module
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.attend import attend, place_products
from mixqsam.numeric.modules import Product
from mixqsam.numeric.quantizers import Quantizer


class Attention(nn.Module):
    """Holds the products, and counts the calls of the first."""

    def __init__(self) -> None:
        super().__init__()
        place_products(self)
        self.calls: list[tuple[int, ...]] = []
        self.get_submodule("qk").register_forward_hook(lambda _, __, output: self.calls.append(tuple(output.shape)))


def operands() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, n, 8, generator=generator) for n in (300, 250, 250))  # type: ignore[return-value]


MASKS = {
    "none": None,
    "of keys": torch.where(torch.arange(250) < 200, 0.0, -torch.inf)[None, None, None],
    "of pairs": torch.where(torch.arange(300)[:, None] >= torch.arange(250), 0.0, -torch.inf)[None, None],
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_attention_in_pieces_is_that_of_torch(mask: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", rows * 4 * 2 * 3 * 250)
    q, k, v = operands()
    owner = Attention().eval()
    found, weights = attend(owner, q, k, v, MASKS[mask], scaling=0.3)
    expected = functional.scaled_dot_product_attention(q, k, v, MASKS[mask], scale=0.3)
    torch.testing.assert_close(found, expected.transpose(1, 2))
    assert weights is None
    assert {shape[2] for shape in owner.calls} <= {rows, 300 % rows or rows}


def test_few_logits_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the decoder's attention, whose number of prompts an exporter leaves open."""
    monkeypatch.setattr(module, "PIECE_BYTES", 1)
    owner = Attention().eval()
    q, k, v = (one[:, :, :200] for one in operands())
    attend(owner, q, k, v)
    assert owner.calls == [(2, 3, 200, 200)]


def test_pieces_of_quantized_operands_give_the_same_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, (q, k, v) = Attention().eval(), operands()
    for product, ranges in ((owner.qk, (-4.0, 4.0)), (owner.av, (0.0, 0.1))):
        assert isinstance(product, Product)
        product.left = Quantizer(AffineGrid.from_range(*map(torch.tensor, ranges), bits=4))
        product.right = Quantizer(AffineGrid.from_range(torch.tensor(-3.0), torch.tensor(3.0), bits=3))
    whole, _ = attend(owner, q, k, v)
    monkeypatch.setattr(module, "PIECE_BYTES", 4 * 2 * 3 * 250)
    pieces, _ = attend(owner, q, k, v)
    assert torch.equal(whole, pieces)


def test_an_attention_without_products_stays_float() -> None:
    q, k, v = operands()
    found, _ = attend(nn.Identity().eval(), q, k, v)
    torch.testing.assert_close(found, functional.scaled_dot_product_attention(q, k, v).transpose(1, 2))
