import copy
from typing import cast

import pytest
import torch
from torch import Tensor
from transformers.models.sam.modeling_sam import SamVisionLayer

from mixqsam.artifact.packed import dequantized
from mixqsam.calibrate import Ranges, calibrate
from mixqsam.data.samples import Sample
from mixqsam.plan import FLOAT, BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.runtime import attention, block
from mixqsam.runtime.block import IntegerSamLayer
from mixqsam.runtime.build import integer_model
from mixqsam.runtime.kernels import missing_kernels
from mixqsam.runtime.windows import Windows
from mixqsam.sam.load import Sam
from tests.oracles import logits_of, nearest

pytestmark = pytest.mark.skipif(missing_kernels() is not None, reason=f"no integer kernels here: {missing_kernels()}")


@pytest.fixture(scope="module")
def ranges(sam: Sam, samples: list[Sample]) -> Ranges:
    return calibrate(sam, samples, observer="minmax", progress=Silent())


def quantized(sam: Sam, ranges: Ranges, **floats: str) -> Sam:
    """All units with 7 bits, but those whose name ends so, which stay float."""
    endings = tuple(floats.values()) or ("none",)
    units = sam.costs().units
    return nearest(
        sam,
        BitPlan({one.name: FLOAT if one.name.endswith(endings) else UnitBits(7, 7) for one in units}),
        ranges,
    )


@pytest.mark.parametrize(("height", "width", "side"), [(7, 5, 3), (6, 6, 3), (4, 6, 0)])
def test_windows_are_those_of_transformers(height: int, width: int, side: int) -> None:
    heads, channels, batch = 2, 6, 2
    tokens = torch.randint(1, 255, (batch, height, width, channels), dtype=torch.uint8)
    windows = Windows.of(tokens, side=side, heads=heads)
    found = windows.split(tokens.view(-1, channels), fill=torch.zeros(channels, dtype=torch.uint8))
    expected: Tensor = tokens
    if side:
        expected = SamVisionLayer.window_partition(cast("SamVisionLayer", None), tokens, side)[0]
    by_head = expected.reshape(len(expected), -1, heads, channels // heads).transpose(1, 2)
    assert torch.equal(found, by_head.reshape(-1, *by_head.shape[2:]))
    assert torch.equal(windows.join(found), tokens.view(-1, channels))


def test_what_fills_up_windows_is_given() -> None:
    tokens = torch.zeros(1, 2, 3, 2, dtype=torch.uint8)
    windows = Windows.of(tokens, side=2, heads=1)
    found = windows.split(tokens.view(-1, 2), fill=torch.tensor([7, 9], dtype=torch.uint8))
    assert found[1].tolist() == [[0, 0], [7, 9], [0, 0], [7, 9]]


@pytest.mark.parametrize("floats", [{}, {"one": "mlp.lin1"}, {"one": "attn.proj"}, {"one": "attn.qkv"}], ids=str)
def test_blocks_some_tokens_at_a_time_give_what_the_simulation_gives(
    sam: Sam, samples: list[Sample], ranges: Ranges, monkeypatch: pytest.MonkeyPatch, floats: dict[str, str]
) -> None:
    for module in (attention, block):
        monkeypatch.setattr(module, "TOKENS", 7)
    model = quantized(sam, ranges, **floats)
    integer = integer_model(model)
    kinds = {type(layer) for layer in integer.model.vision_encoder.layers}
    assert kinds == ({SamVisionLayer} if floats == {"one": "attn.qkv"} else {IntegerSamLayer})
    for sample in samples:
        assert torch.equal(logits_of(integer, sample), logits_of(model, sample))


def test_hidden_states_are_recorded_as_before(sam: Sam, ranges: Ranges) -> None:
    model = quantized(sam, ranges)
    side = sam.model.config.vision_config.image_size
    frame = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    found, expected = (
        one.model.vision_encoder(frame, output_hidden_states=True).hidden_states
        for one in (integer_model(model), model)
    )
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


def test_a_block_in_another_type_or_made_float_computes_as_its_layers_do(sam: Sam, ranges: Ranges) -> None:
    layer = integer_model(quantized(sam, ranges)).model.vision_encoder.layers[0]
    config = sam.model.config.vision_config
    tokens = torch.randn(1, 5, 5, config.hidden_size, generator=torch.Generator().manual_seed(0))
    exact = layer(tokens)
    assert layer.double()(tokens.double()).dtype == torch.float64
    layer.float()
    floats = dequantized(copy.deepcopy(layer))(tokens)
    assert not torch.equal(floats, exact)
    assert torch.allclose(floats, exact, atol=0.2 * float(exact.abs().max()))
