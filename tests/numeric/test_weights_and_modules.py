import pytest
import torch
from torch import nn
from torch.nn import functional

from mixqsam.errors import HonestyError, NumericError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.honesty import check_model
from mixqsam.numeric.modules import Product, QuantizedConv2d, QuantizedLinear
from mixqsam.numeric.quantizers import Quantizer
from mixqsam.numeric.weights import QuantizedTensor, project_weight, quantize_weight, weight_grid

GRID = AffineGrid.from_range(torch.tensor(-3.0), torch.tensor(3.0), bits=4)


def weight(*shape: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    values[0] = 0
    values[1, 0] = 40
    return values


def stored(values: torch.Tensor, *, bits: int, observer: str = "omse") -> QuantizedTensor:
    return quantize_weight(values, weight_grid(values, bits=bits, observer=observer, name="w"))


@pytest.mark.parametrize("bits", range(2, 9), ids=lambda bits: f"{bits}-bit")
def test_each_channel_has_at_most_2_to_the_b_values_and_survives_packing(bits: int) -> None:
    values = weight(9, 33)
    found = stored(values, bits=bits)
    dense = found.dequantize()
    assert max(row.unique().numel() for row in dense) <= 2**bits
    again = QuantizedTensor.from_packed(found.packed(), grid=found.grid, shape=found.shape)
    assert torch.equal(again.dequantize(), dense)
    assert torch.equal(project_weight(values, found.grid), dense)
    assert torch.equal(dense[0], torch.zeros(33))


def test_omse_beats_minmax_in_every_channel() -> None:
    values = weight(9, 200)
    errors = {
        name: (stored(values, bits=3, observer=name).dequantize() - values).square().mean(1)
        for name in ("minmax", "omse")
    }
    assert bool((errors["omse"] <= errors["minmax"]).all())
    assert float(errors["omse"].sum()) < float(errors["minmax"].sum())


def test_a_damaged_weight_is_named() -> None:
    with pytest.raises(NumericError, match="weight of w holds NaN"):
        weight_grid(torch.tensor([[float("nan")]]), bits=4, observer="omse", name="w")


def test_linear_and_convolution_compute_with_the_quantized_values() -> None:
    x = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(2))
    source = nn.Conv2d(5, 4, 3, padding=1, stride=2)
    kernel = stored(source.weight.detach(), bits=4)
    conv = QuantizedConv2d(kernel, source.bias, Quantizer(GRID), source=source)
    expected = functional.conv2d(GRID.project(x), kernel.dequantize(), source.bias, stride=2, padding=1)
    torch.testing.assert_close(conv(x), expected)
    matrix = stored(weight(4, 6), bits=3)
    linear = QuantizedLinear(matrix, None, Quantizer(GRID))
    torch.testing.assert_close(linear(x), functional.linear(GRID.project(x), matrix.dequantize()))


def test_honesty_finds_a_soft_weight_and_a_half_quantized_product() -> None:
    layer = QuantizedLinear(stored(weight(4, 6), bits=3), None, Quantizer(GRID))
    model = nn.ModuleDict({"layer": layer, "product": Product()})
    check_model(model)
    layer.weight += 0.01
    with pytest.raises(HonestyError, match=r"layer: the weight in use is not the weight on its 3-bit grid"):
        check_model(model)
    layer.weight -= 0.01
    layer.weight.copy_(layer.stored.whole())
    model["product"].left = Quantizer(GRID)
    with pytest.raises(HonestyError, match=r"product: only one operand"):
        check_model(model)


def test_honesty_finds_a_quantizer_that_emits_too_many_values() -> None:
    class Wide(Quantizer):
        def _limits(self) -> tuple[float, float, float, float]:
            step, per_step, low, high = super()._limits()
            return step, per_step, low, high + 1

    quantizer = Wide(GRID)
    with pytest.raises(HonestyError, match="17 distinct values from a 4-bit quantizer"):
        check_model(nn.Sequential(quantizer))
