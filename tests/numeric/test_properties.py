"""What holds of every quantizer, observer and packing, whatever the numbers."""

from collections.abc import Callable
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.observers import OBSERVERS, Statistics
from mixqsam.numeric.packing import pack, packed_bytes, unpack
from mixqsam.numeric.quantizers import (
    QUANTIZERS,
    ActivationQuantizer,
    ChannelQuantizer,
    GroupedQuantizer,
    HybridQuantizer,
    LogQuantizer,
    Quantizer,
)
from mixqsam.numeric.weights import QuantizedTensor

BITS = st.integers(2, 8)
# Below a millionth, squares and higher powers of errors are nothing to float32.
NUMBERS = st.floats(-1e4, 1e4, width=32).map(lambda value: value if abs(value) > 1e-6 else 0.0)
SPANS = st.floats(0.0009765625, 1e4, width=32)
CHANNELS = 3


def affine(bits: int, low: float, span: float) -> ActivationQuantizer:
    return Quantizer(AffineGrid.from_range(torch.tensor(low), torch.tensor(low + span), bits=bits))


def logarithmic(bits: int, low: float, span: float) -> ActivationQuantizer:
    return LogQuantizer(bits, scale=torch.tensor(span), tau=1 + int(abs(low)) % 2)


def hybrid(bits: int, low: float, span: float) -> ActivationQuantizer:
    knee = torch.tensor(span / 4)
    return HybridQuantizer(bits, low=torch.tensor(low), knee=knee, span=torch.tensor(span), log_levels=2 ** (bits - 1))


def grouped(bits: int, low: float, span: float) -> ActivationQuantizer:
    grids = AffineGrid.from_range(torch.tensor([low, -span]), torch.tensor([low + span, span / 3]), bits=bits)
    return GroupedQuantizer(bits, scale=grids.scale, zero=grids.zero, group=torch.tensor([0, 1, 0]))


def channelwise(bits: int, low: float, span: float) -> ActivationQuantizer:
    lows = torch.tensor([low, -span, low])
    return ChannelQuantizer.from_range(lows, torch.tensor([low + span, span / 3, low + span]), bits=bits)


MAKERS: dict[str, Callable[[int, float, float], ActivationQuantizer]] = {
    "affine": affine,
    "log": logarithmic,
    "hybrid": hybrid,
    "grouped": grouped,
    "channels": channelwise,
}
kinds = pytest.mark.parametrize("kind", MAKERS)
cases = given(bits=BITS, low=NUMBERS, span=SPANS, values=st.lists(NUMBERS, min_size=4, max_size=30))


def column(values: list[float]) -> Tensor:
    """[n, CHANNELS], the same in all channels."""
    return torch.tensor(values)[:, None].repeat(1, CHANNELS)


def quantized(quantizer: ActivationQuantizer, values: Tensor) -> Tensor:
    """[n, CHANNELS] through a quantizer, whose channels may be those of maps."""
    maps = values.reshape(*values.shape, *[1] * (-1 - quantizer.channel_axis))
    projected: Tensor = quantizer(maps)
    return projected.reshape(values.shape)


def test_every_kind_is_here() -> None:
    assert set(MAKERS) == set(QUANTIZERS)


@kinds
@settings(max_examples=80, deadline=None)
@cases
def test_projecting_again_changes_nothing(kind: str, bits: int, low: float, span: float, values: list[float]) -> None:
    quantizer = MAKERS[kind](bits, low, span)
    once = quantized(quantizer, column(values))
    assert torch.isfinite(once).all()
    twice = quantized(quantizer, once)
    # A hybrid grid adds its lower end, which may round.
    slack = 1e-6 * (abs(low) + span) if kind == "hybrid" else 0.0
    assert (twice - once).abs().max() <= slack


@kinds
@settings(max_examples=80, deadline=None)
@cases
def test_the_order_is_kept(kind: str, bits: int, low: float, span: float, values: list[float]) -> None:
    quantizer = MAKERS[kind](bits, low, span)
    found = quantized(quantizer, column(sorted(values)))
    assert (found[1:] >= found[:-1]).all()


@kinds
@settings(max_examples=40, deadline=None)
@given(bits=BITS, low=NUMBERS, span=SPANS)
def test_there_are_at_most_2_to_the_b_values(kind: str, bits: int, low: float, span: float) -> None:
    quantizer = MAKERS[kind](bits, low, span)
    line = torch.linspace(min(low, -span) - 1, max(low, 0.0) + 2 * span + 1, 3000)
    found = quantized(quantizer, line[:, None].repeat(1, CHANNELS))
    assert max(len(found[:, c].unique()) for c in range(CHANNELS)) <= 2**bits


@kinds
@settings(max_examples=40, deadline=None)
@given(bits=BITS, low=NUMBERS, span=SPANS)
def test_what_is_stored_makes_the_same_quantizer(kind: str, bits: int, low: float, span: float) -> None:
    quantizer = MAKERS[kind](bits, low, span)
    again = type(quantizer).restore(bits, quantizer.tensors())
    line = torch.linspace(low - span, low + 2 * span, 500)[:, None].repeat(1, CHANNELS)
    assert torch.equal(quantized(quantizer, line), quantized(again, line))


@settings(max_examples=80, deadline=None)
@given(bits=BITS, low=NUMBERS, span=SPANS, share=st.floats(0, 1))
def test_within_the_range_the_error_is_half_a_step(bits: int, low: float, span: float, share: float) -> None:
    for quantizer in (affine(bits, low, span), grouped(bits, low, span)):
        grid = quantizer.grid
        assert isinstance(grid, AffineGrid)
        least, most = -grid.zero * grid.scale, (2**bits - 1 - grid.zero) * grid.scale
        value = least + share * (most - least)
        shaped = value.reshape(1, -1).expand(1, CHANNELS).contiguous()
        # Half a step, and what float32 cannot tell apart.
        allowed = grid.scale * (0.5 + 1e-4) + 2e-7 * value.abs()
        assert ((quantizer(shaped) - shaped).abs() <= allowed).all()


@settings(max_examples=80, deadline=None)
@given(bits=BITS, scale=SPANS, octaves=st.floats(0, 1))
def test_on_a_logarithmic_grid_the_error_is_half_an_octave_of_steps(bits: int, scale: float, octaves: float) -> None:
    for tau in (1, 2, 4):
        quantizer = LogQuantizer(bits, scale=torch.tensor(scale), tau=tau)
        # Down to the smallest power that is not the code of zero.
        exponent = octaves * (2**bits - 2) / tau
        value = torch.tensor([scale * 2.0**-exponent])
        if value < 1e-29:
            continue
        ratio = float(quantizer(value) / value)
        assert 2 ** (-0.5 / tau) * 0.999 <= ratio <= 2 ** (0.5 / tau) * 1.001


@pytest.mark.parametrize("observer", OBSERVERS)
@settings(max_examples=25, deadline=None)
@given(
    bits=BITS,
    low=NUMBERS,
    span=st.just(0.0) | SPANS,
    shape=st.sampled_from([(1,), (1, 1), (1, 7), (2, 3, 5), (400,)]),
    seed=st.integers(0, 99),
)
def test_observers_give_ranges_within_what_was_seen(
    observer: str, bits: int, low: float, span: float, shape: tuple[int, ...], seed: int
) -> None:
    """Also for a constant (span 0), for one number, and for nothing but zeros."""
    values = low + span * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    statistics = Statistics()
    statistics.update(values, name="an input")
    least, most = OBSERVERS[observer](statistics, bits=bits)
    room = 1e-5 * max(abs(low), abs(low + span), 1e-6)
    assert min(float(values.min()), 0.0) - room <= least <= most <= max(float(values.max()), 0.0) + room
    grid = AffineGrid.from_range(torch.tensor(least), torch.tensor(most), bits=bits)
    assert torch.isfinite(grid.scale)
    assert grid.scale > 0
    found = grid.project(values)
    assert torch.isfinite(found).all()
    if span == 0:
        assert (found - values).abs().max() <= 1e-5 * abs(low) + 1e-37


@settings(max_examples=60, deadline=None)
@given(
    bits=BITS,
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple),
    seed=st.integers(0, 2**31),
)
def test_packing_keeps_every_code_of_every_shape(bits: int, shape: tuple[int, ...], seed: int) -> None:
    codes = torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    packed = pack(codes, bits=bits)
    assert packed.numel() == packed_bytes(prod(shape), bits)
    assert torch.equal(unpack(packed, bits=bits, count=codes.numel()).reshape(shape), codes)


@pytest.mark.parametrize("bits", range(2, 9), ids=lambda bits: f"{bits}-bit")
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-30, 1e30])
def test_constant_channels_and_zeros_stay_what_they_are(bits: int, value: float) -> None:
    weight = torch.full((2, 6), value)
    weight[1] = 0.0
    grid = AffineGrid.spanning(weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), bits=bits, signed=True)
    found = QuantizedTensor(grid.encode(weight), grid, (2, 6)).dequantize()
    assert torch.isfinite(found).all()
    assert torch.equal(found[1], weight[1])
    # The step is stored in bfloat16, which is up to 1/128 larger; at 8 bits the grid is symmetric.
    allowed = abs(value) * 0.01 if value and abs(value) > 1e-29 else 1e-29
    assert (found[0] - weight[0]).abs().max() <= allowed
