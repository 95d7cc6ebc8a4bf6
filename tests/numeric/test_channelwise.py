"""A grid for each channel: the quantizer, what its ranges come from, and where it may be used."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mixqsam.errors import ArtifactError, HonestyError, NumericError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.channel_statistics import ChannelStatistics
from mixqsam.numeric.honesty import check_model, distinct_values
from mixqsam.numeric.modules import QuantizedConv2d
from mixqsam.numeric.observers import OBSERVERS, Statistics
from mixqsam.numeric.quantizers import ChannelQuantizer, Quantizer
from mixqsam.numeric.tensor_file import TensorTable
from mixqsam.numeric.weights import quantize_weight, weight_grid
from mixqsam.plan import Unit, UnitBits
from mixqsam.quantization.reconstruction.learnable import LearnableQuantizer

SPREAD = torch.tensor([0.01, 1.0, 3.0, 10.0, 170.0])
CHANNELS = len(SPREAD)


def maps(seed: int = 0) -> Tensor:
    values = torch.randn(2, CHANNELS, 9, 8, generator=torch.Generator().manual_seed(seed))
    return functional.gelu(values) * SPREAD[:, None, None]


def quantizer(bits: int) -> ChannelQuantizer:
    return ChannelQuantizer.from_range(maps().amin((0, 2, 3)), maps().amax((0, 2, 3)), bits=bits)


@pytest.mark.parametrize("bits", range(2, 9))
def test_each_channel_has_its_own_values(bits: int) -> None:
    one = quantizer(bits)
    found = one(maps())
    for channel in range(CHANNELS):
        exact = AffineGrid(bits, one.scale[channel], one.zero[channel])
        torch.testing.assert_close(found[:, channel], exact.project(maps()[:, channel]), rtol=1e-6, atol=0)
        assert len(found[:, channel].unique()) <= 2**bits
    assert distinct_values(one).tolist() == [2**bits] * CHANNELS


def test_a_channel_with_too_many_values_is_dishonest_however_narrow_it_is() -> None:
    one, wider = quantizer(4), quantizer(6)

    def forward(values: Tensor, *, whole: bool = False) -> Tensor:
        found, finer = (ChannelQuantizer.forward(each, values, whole=whole) for each in (one, wider))
        return torch.cat([finer[:, :1], found[:, 1:]], dim=1)

    one.forward = forward  # type: ignore[method-assign]
    with pytest.raises(HonestyError, match="64 distinct values from a 4-bit quantizer"):
        check_model(nn.Sequential(one))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_depthwise_convolution_multiplies_whole_numbers(bits: int) -> None:
    torch.manual_seed(0)
    source = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1, groups=CHANNELS)
    weight = quantize_weight(source.weight, weight_grid(source.weight, bits=bits, observer="omse", name="x"))
    layer = QuantizedConv2d(weight, source.bias, quantizer(bits), source=source)
    assert quantizer(bits)(maps(), whole=True).frac().abs().max() == 0
    assert layer.weight.frac().abs().max() == 0
    assert source.bias is not None
    values, kernel, bias = (
        one.detach().double() for one in (quantizer(bits)(maps()), weight.dequantize(), source.bias)
    )
    exact = functional.conv2d(values, kernel, bias, 2, 1, groups=CHANNELS)
    torch.testing.assert_close(layer(maps()).double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


def test_narrow_channels_keep_what_one_grid_for_all_loses() -> None:
    joint = Quantizer(AffineGrid.from_range(maps().amin(), maps().amax(), bits=8))
    narrow = maps()[:, 0]
    assert (joint(maps())[:, 0] - narrow).norm() / narrow.norm() > 0.9
    assert (quantizer(8)(maps())[:, 0] - narrow).norm() / narrow.norm() < 0.01


def test_its_scales_are_learned_apart_and_kept_as_they_are_stored() -> None:
    learnable = LearnableQuantizer(quantizer(3), float_share=0.0, generator=torch.Generator())
    assert learnable.logarithm is not None
    learnable(maps()).square().mean(dim=(0, 2, 3))[1].backward()
    assert learnable.logarithm.grad is not None
    assert (learnable.logarithm.grad != 0).tolist() == [False, True, False, False, False]
    with torch.no_grad():
        learnable.logarithm.copy_(torch.linspace(-0.5, 0.5, CHANNELS))
    frozen = learnable.freeze()
    assert isinstance(frozen, ChannelQuantizer)
    torch.testing.assert_close(frozen.scale, quantizer(3).scale * learnable.logarithm.detach().exp(), rtol=4e-3, atol=0)
    again = ChannelQuantizer.restore(3, frozen.tensors())
    assert torch.equal(again(maps()), frozen(maps()))
    assert frozen.deployable() is frozen


def test_a_channel_takes_three_bytes() -> None:
    stored = quantizer(8).tensors()
    assert sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) == 3 * CHANNELS
    unit = Unit("u", "conv", "encoder", 45, CHANNELS, 1, "depthwise", "0")
    dense = replace(unit, role="convolution")
    bits = [UnitBits(4, 4), UnitBits(4, 16), UnitBits(16, 4), UnitBits(16, 16)]
    assert [unit.overhead_bytes(b) for b in bits] == [6 * CHANNELS, 3 * CHANNELS, 3 * CHANNELS, 0]
    assert [dense.overhead_bytes(b) for b in bits] == [3 * CHANNELS + 5, 3 * CHANNELS, 5, 0]


def stored(**other: Tensor) -> TensorTable:
    tensors = quantizer(4).tensors() | other
    return TensorTable({f"u.input_{name}": one for name, one in tensors.items()}, source="x")


def test_it_is_read_for_depthwise_convolutions_only() -> None:
    found = stored().quantizer("u.input", kind="channels", bits=4, channels=CHANNELS, groups=CHANNELS)
    assert torch.equal(found(maps()), quantizer(4)(maps()))
    with pytest.raises(ArtifactError, match="which only a depthwise convolution can use"):
        stored().quantizer("u.input", kind="channels", bits=4, channels=CHANNELS, groups=1)
    with pytest.raises(ArtifactError, match="grids for 5 channels, expected grids for 4"):
        stored().quantizer("u.input", kind="channels", bits=4, channels=4, groups=4)
    with pytest.raises(ArtifactError, match="expected one for all channels"):
        stored().quantizer("u.input", kind="channels", bits=4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scale", torch.zeros(CHANNELS), "a scale or zero off its grid"),
        ("scale", torch.full((CHANNELS,), 1.00001), "scales that are not bfloat16 numbers"),
        ("scale", torch.ones(4), "as many scales as zeros"),
        ("zero", torch.full((CHANNELS,), 16, dtype=torch.uint8), "a scale or zero off its grid"),
    ],
)
def test_damaged_grids_are_refused(field: str, value: Tensor, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        stored(**{field: value}).quantizer("u.input", kind="channels", bits=4, channels=CHANNELS, groups=CHANNELS)


def seen(*tensors: Tensor) -> ChannelStatistics:
    statistics = ChannelStatistics()
    for tensor in tensors:
        statistics.update(tensor, name="u")
    return statistics


@pytest.mark.parametrize("observer", OBSERVERS)
def test_ranges_are_those_of_each_channel_by_itself(observer: str) -> None:
    """A histogram of 2048 bins instead of 8192 moves them by a bin or so."""
    channels = list(seen(maps(), 2 * maps(1)).channels())
    for index, channel in enumerate(channels):
        alone = Statistics()
        for values in (maps(), 2 * maps(1)):
            alone.update(values[:, index], name="u")
        found, wanted = (OBSERVERS[observer](one, bits=4) for one in (channel, alone))
        span = wanted[1] - wanted[0]
        assert found == pytest.approx(wanted, abs=0.06 * span)
        assert (channel.low, channel.high) == (alone.low, alone.high)
        assert channel.mean_extremes() == pytest.approx(alone.mean_extremes())


def test_parts_of_a_stream_may_be_remembered_apart() -> None:
    tensors = [maps(seed) * 4**seed for seed in range(3)]
    whole, first, second = seen(*tensors), seen(tensors[0]), ChannelStatistics()
    assert first.base is not None
    second.rebase(first.base)
    for tensor in tensors[1:]:
        second.update(tensor, name="u")
    first.merge(second)
    for one, other in zip(whole.channels(), first.channels(), strict=True):
        assert (one.low, one.high, one.means) == (other.low, other.high, other.means)
        assert torch.equal(one.centres, other.centres)
        assert torch.equal(one.shares, other.shares)
    with pytest.raises(ValueError, match="different ranges"):
        first.merge(seen(tensors[1]))


def test_a_channel_of_zeros_and_damaged_maps() -> None:
    quiet = maps().clone()
    quiet[:, 2] = 0
    for channel in seen(quiet).channels():
        assert all(torch.isfinite(part).all() for part in channel.points())
    low, high = torch.tensor([OBSERVERS["omse"](one, bits=8) for one in seen(quiet).channels()]).unbind(1)
    assert ChannelQuantizer.from_range(low, high, bits=8)(quiet)[:, 2].abs().max() == 0
    quiet[0, 1, 3, 3] = float("nan")
    with pytest.raises(NumericError, match="The input of u holds NaN"):
        seen(quiet)
