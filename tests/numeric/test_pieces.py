"""Gradients of attention whose logits are computed again in the backward pass."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from mixqsam.numeric import attend, pieces
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.attention import VisionAttention
from mixqsam.numeric.modules import Product
from mixqsam.numeric.quantizers import ActivationQuantizer, LogQuantizer, Quantizer
from mixqsam.numeric.weights import weight_grid
from mixqsam.quantization.reconstruction.learnable import LearnableLayer, LearnableQuantizer, SoftWeight

HEIGHT, WIDTH, HEADS, CHANNELS = 4, 6, 2, 8
GROUP_BYTES = 4 * (HEIGHT * WIDTH) ** 2
ROW_BYTES = GROUP_BYTES // HEIGHT


def uniform(low: float, high: float) -> ActivationQuantizer:
    return Quantizer(AffineGrid.from_range(torch.tensor(low), torch.tensor(high), bits=3))


# What quantizes the softmax, and how many elements stay float.
SOFTMAX: dict[str, tuple[Callable[[], ActivationQuantizer], float]] = {
    "uniform": (lambda: uniform(0.0, 0.2), 0.5),
    "logarithmic": (lambda: LogQuantizer(3, scale=torch.tensor(0.3), tau=2), 0.5),
    "not quantized": (lambda: uniform(0.0, 0.2), 1.0),
}


def learn(products: tuple[Product, Product], kind: str) -> torch.Generator:
    """Let all operands drop elements, by one generator."""
    generator = torch.Generator().manual_seed(5)
    make, share = SOFTMAX[kind]
    qk, av = products
    for product, operand, start in (
        (qk, "left", uniform(-1, 1)),
        (qk, "right", uniform(-1, 1)),
        (av, "left", make()),
        (av, "right", uniform(-1, 1)),
    ):
        setattr(product, operand, LearnableQuantizer(start, float_share=share, generator=generator))
    return generator


def vision_attention(kind: str) -> tuple[VisionAttention, torch.Generator]:
    torch.manual_seed(3)
    qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
    positions = [nn.Parameter(torch.randn(2 * size - 1, CHANNELS // HEADS)) for size in (HEIGHT, WIDTH)]
    soft = SoftWeight(qkv.weight, weight_grid(qkv.weight, bits=3, observer="minmax", name="qkv"))
    layer = LearnableLayer(qkv, soft, nn.Identity())
    attention = VisionAttention(
        heads=HEADS, scale=0.5, qkv=layer, proj=nn.Linear(CHANNELS, CHANNELS), positions=(positions[0], positions[1])
    )
    return attention, learn((attention.qk, attention.av), kind)


def largest_kept(run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What a computation gives, and the elements of the largest tensor that it keeps for the backward pass."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = run()
    return found, max(sizes)


@pytest.mark.parametrize("softmax", SOFTMAX)
@pytest.mark.parametrize(
    ("slice_bytes", "calls"),
    [(2 * GROUP_BYTES, 2), (GROUP_BYTES, 4), (2 * ROW_BYTES, 8), (1, 16)],
    ids=["two groups", "a group", "two rows", "a row"],
)
def test_gradients_in_slices_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, softmax: str, slice_bytes: int, calls: int
) -> None:
    values = torch.randn(2, HEIGHT, WIDTH, CHANNELS, generator=torch.Generator().manual_seed(1))
    pull = torch.randn(values.shape, generator=torch.Generator().manual_seed(2))

    def compute() -> tuple[dict[str, Tensor], int, int]:
        attention, generator = vision_attention(softmax)
        seen: list[int] = []
        attention.qk.register_forward_hook(lambda *_: seen.append(1))
        inputs = values.clone().requires_grad_()
        out, kept = largest_kept(lambda: attention(inputs)[0])
        forward_calls, drawn = len(seen), generator.get_state()
        torch.autograd.backward(out, pull)
        # The second computation leaves the generator where the first had left it.
        assert torch.equal(generator.get_state(), drawn)
        gradients = {name: one.grad for name, one in attention.named_parameters() if one.grad is not None}
        assert inputs.grad is not None
        return {"out": out.detach(), "inputs": inputs.grad, "drawn": drawn, **gradients}, kept, forward_calls

    whole, most, _ = compute()
    assert most == 2 * HEADS * (HEIGHT * WIDTH) ** 2
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1)
    monkeypatch.setattr(pieces, "SLICE_BYTES", slice_bytes)
    sliced, least, slices = compute()
    assert least < most / 2
    assert slices == calls
    assert {"inputs", "qkv.soft.alpha", "rel_pos_h", "rel_pos_w", "proj.weight"} <= whole.keys() <= sliced.keys()
    assert ("av.left.logarithm" in whole) == (softmax == "uniform")
    for name, expected in whole.items():
        torch.testing.assert_close(sliced[name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_all_products_of_slices_are_made_by_the_function_of_their_product(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, _ = vision_attention("uniform")
    calls: list[str] = []

    def count(name: str, left: Tensor, right: Tensor) -> Tensor:
        calls.append(name)
        return left @ right

    for name in ("qk", "av"):
        attention.get_submodule(name).__dict__["multiply"] = partial(count, name)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1)
    monkeypatch.setattr(pieces, "SLICE_BYTES", GROUP_BYTES)
    attention(torch.randn(2, HEIGHT, WIDTH, CHANNELS).requires_grad_())[0].sum().backward()
    slices = 2 * HEADS
    # q·kᵀ twice, because it is computed again; the product with v, and both of its gradients.
    assert (calls.count("qk"), calls.count("av")) == (2 * slices, 3 * slices)


def test_gradients_in_slices_are_those_of_the_whole_in_other_families(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    operands = [torch.randn(2, 3, n, 4, generator=generator) for n in (300, 248, 248)]

    def compute() -> tuple[list[Tensor], int]:
        owner = nn.Module().eval()
        attend.place_products(owner)
        learn((owner.qk, owner.av), "uniform")  # type: ignore[arg-type]
        query, key, value = inputs = [one.clone().requires_grad_() for one in operands]
        out, kept = largest_kept(lambda: attend.attend(owner, query, key, value)[0])
        torch.autograd.backward(out, 2 * out.detach())
        parameters = [*inputs, *owner.parameters()]
        return [out.detach(), *(one.grad for one in parameters if one.grad is not None)], kept

    whole, most = compute()
    for module in (attend, pieces):
        monkeypatch.setattr(module, "PIECE_BYTES", 1)
    monkeypatch.setattr(pieces, "SLICE_BYTES", 100 * 4 * 248)
    sliced, least = compute()
    assert most == 2 * 3 * 300 * 248 > 300 * 248 > least
    assert len(whole) == len(sliced) == 8
    for found, expected in zip(sliced, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
