import pytest
import torch
from torch import nn

from mixqsam.errors import ArtifactError, HonestyError, NumericError
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.half import HalfTensor, Unquantized
from mixqsam.numeric.honesty import check_model
from mixqsam.numeric.modules import Product, QuantizedConv2d, QuantizedLinear
from mixqsam.numeric.quantizers import QUANTIZERS, ChannelQuantizer, Quantizer
from mixqsam.numeric.tensor_file import TensorTable, kinds_of
from mixqsam.numeric.weights import quantize_weight, weight_grid
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.runtime.packed import pack_layer


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantizer(bits: int) -> Quantizer:
    return Quantizer(AffineGrid.from_range(torch.tensor(-2.0), torch.tensor(3.0), bits=bits))


@pytest.mark.parametrize(
    ("scale", "kind"),
    [(1.0, torch.float16), (1e-9, torch.bfloat16), (1e6, torch.bfloat16), (1e-3, torch.float16), (0.0, torch.float16)],
)
def test_the_type_with_the_smaller_error_is_taken(scale: float, kind: torch.dtype) -> None:
    """float16 has the finer steps, bfloat16 the wider range."""
    weight = noise(4, 50) * scale
    found = HalfTensor.nearest(weight, name="u")
    assert found.values.dtype == kind
    assert (found.bits, found.shape) == (16, (4, 50))

    def error(dtype: torch.dtype) -> float:
        return float((weight.to(dtype).double() - weight).square().sum())

    assert error(kind) == min(error(torch.float16), error(torch.bfloat16))
    assert torch.equal(found.dequantize(), weight.to(kind).float())
    assert torch.equal(found.whole(), found.dequantize())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.finfo(torch.float32).max])
def test_a_weight_that_no_type_holds_is_refused(value: float) -> None:
    with pytest.raises(NumericError, match="The weight of u holds NaN or infinity"):
        HalfTensor.nearest(torch.tensor([[1.0, value]]), name="u")


@pytest.mark.parametrize("activation", [4, 16])
@pytest.mark.parametrize("weight", [4, 16])
def test_a_linear_computes_with_what_is_stored(weight: int, activation: int) -> None:
    source, values = nn.Linear(20, 6), noise(3, 20, seed=1)
    exact = source.weight.detach()
    grid = weight_grid(exact, bits=4, observer="minmax", name="u")
    stored = HalfTensor.nearest(exact, name="u") if weight == 16 else quantize_weight(exact, grid)
    own = Unquantized() if activation == 16 else quantizer(4)
    layer = QuantizedLinear(stored, source.bias, own)
    expected = nn.functional.linear(own(values), stored.dequantize(), source.bias)
    assert torch.allclose(layer(values), expected, atol=1e-5)
    check_model(nn.Sequential(layer), BitPlan({"0": UnitBits(weight, activation)}))
    with pytest.raises(HonestyError, match="0 is to be W8A8 but is W"):
        check_model(nn.Sequential(layer), BitPlan({"0": UnitBits(8, 8)}))


@pytest.mark.parametrize("packed", [False, True], ids=["simulated", "packed"])
@pytest.mark.parametrize("weight", [4, 16])
def test_only_an_input_without_a_quantizer_computes_in_the_type_of_autocast(weight: int, packed: bool) -> None:
    source, values = nn.Linear(20, 6), noise(3, 20, seed=1)
    exact = source.weight.detach()
    grid = weight_grid(exact, bits=4, observer="minmax", name="u")
    stored = HalfTensor.nearest(exact, name="u") if weight == 16 else quantize_weight(exact, grid)
    changed = []
    for own in (Unquantized(), quantizer(4)):
        simulated = QuantizedLinear(stored, source.bias, own)
        layer = pack_layer(simulated) if packed else simulated
        expected = layer(values)
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(values)
        assert found.dtype == torch.float32
        assert torch.allclose(found, expected, atol=0.05)
        changed.append(not torch.equal(found, expected))
    assert changed == [True, False]


def test_a_depthwise_weight_of_16_bits_meets_a_grid_for_each_channel() -> None:
    source, values = nn.Conv2d(5, 5, 3, padding=1, groups=5), noise(1, 5, 8, 8, seed=2)
    low, high = -torch.arange(1.0, 6), torch.arange(1.0, 6)
    own = ChannelQuantizer.from_range(low, high, bits=6)
    stored = HalfTensor.nearest(source.weight, name="u")
    layer = QuantizedConv2d(stored, source.bias, own, source=source)
    expected = nn.functional.conv2d(own(values), stored.dequantize(), source.bias, padding=1, groups=5)
    assert torch.allclose(layer(values), expected, atol=1e-5)


def test_a_product_may_have_a_quantizer_on_one_operand() -> None:
    product = Product()
    product.left, product.right = quantizer(4), Unquantized()
    root = nn.ModuleDict({"qk": product})
    check_model(root, BitPlan({"qk": UnitBits(16, 4)}))
    assert set(product.tensors()) == {"left_scale", "left_zero"}
    values = noise(2, 3)
    assert product.operand("right", values)[0] is values
    product.left = Unquantized()
    check_model(root, BitPlan({"qk": UnitBits(16, 16)}))
    assert kinds_of(product.quantizers) == {}
    with pytest.raises(HonestyError, match="qk is to be W16A4 but is W16A16"):
        check_model(root, BitPlan({"qk": UnitBits(16, 4)}))
    product.right = nn.Identity()
    with pytest.raises(HonestyError, match="only one operand"):
        check_model(root)


def test_a_weight_that_is_not_half_precision_is_dishonest() -> None:
    source = nn.Linear(4, 4)
    layer = QuantizedLinear(HalfTensor.nearest(source.weight, name="u"), source.bias, Unquantized())
    layer.weight += 1e-6
    with pytest.raises(HonestyError, match="is not the weight stored in half precision"):
        check_model(nn.Sequential(layer))
    layer = QuantizedLinear(HalfTensor(source.weight.detach()), source.bias, Unquantized())
    with pytest.raises(HonestyError, match="a weight of 16 bits is stored as torch.float32"):
        check_model(nn.Sequential(layer))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_stored_weight_is_read_as_it_is(kind: torch.dtype) -> None:
    weight = HalfTensor(noise(4, 3, 2).to(kind))
    stored = {f"u.weight{ending}": tensor for ending, tensor in weight.tensors().items()}
    assert [(name, tensor.ndim) for name, tensor in stored.items()] == [("u.weight", 1)]
    source = TensorTable(stored, source="file")
    again = source.weight("u", bits=16, shape=(4, 3, 2))
    assert isinstance(again, HalfTensor)
    assert again.values.dtype == kind
    assert torch.equal(again.values, weight.values)
    assert isinstance(source.quantizer("u.input", kind="affine", bits=16), Unquantized)
    source.check_all_used()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(24), r"u.weight is \(24,\) of torch.float32, expected \(24,\) of torch.float16 or torch.bfloat16"),
        (torch.zeros(4, 6).half(), r"expected \(24,\)"),
        (torch.full((24,), float("nan")).half(), "holds NaN or infinity"),
        (torch.zeros(24, dtype=torch.uint8), "expected"),
    ],
)
def test_other_tensors_are_refused(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        TensorTable({"u.weight": tensor}, source="file").weight("u", bits=16, shape=(4, 6))


def test_no_file_can_name_it_as_a_kind() -> None:
    assert Unquantized.kind not in QUANTIZERS
    assert Unquantized.restore(16, {}).tensors() == {}
