from dataclasses import replace

import pytest
import torch

from mixqsam.calibrate import Ranges, calibrate
from mixqsam.data.samples import Sample
from mixqsam.errors import ArtifactError, NumericError
from mixqsam.numeric.observers import OBSERVERS
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam, load_sam
from tests.oracles import logits_of


def test_minmax_ranges_are_those_of_the_activations(sam: Sam, samples: list[Sample]) -> None:
    ranges = calibrate(sam, samples, observer="minmax", progress=Silent())
    seen: list[torch.Tensor] = []
    name = "vision_encoder.layers.1.mlp.lin2"
    handle = sam.model.get_submodule(name).register_forward_pre_hook(lambda m, i: seen.append(i[0].flatten()))
    for sample in samples:
        logits_of(sam, sample)
    handle.remove()
    everything = torch.cat(seen)
    assert ranges.values[name]["input"][4] == (float(everything.min()), float(everything.max()))


def test_every_operand_of_every_unit_has_a_range_at_every_bit_width(sam: Sam, samples: list[Sample]) -> None:
    ranges = calibrate(sam, samples, observer="omse", progress=Silent())
    for unit in sam.costs().units:
        operands = ranges.values[unit.name]
        assert set(operands) == ({"left", "right"} if unit.kind == "product" else {"input"})
        assert all(set(per_bits) == set(range(2, 9)) for per_bits in operands.values())
    attention = ranges.values["vision_encoder.layers.0.attn.av"]["left"][8]
    assert 0 <= attention[0] <= attention[1] <= 1


def test_calibration_leaves_the_model_as_it_was(sam: Sam, samples: list[Sample]) -> None:
    before = logits_of(sam, samples[0])
    calibrate(sam, samples, observer="omse", progress=Silent())
    assert torch.equal(before, logits_of(sam, samples[0]))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in sam.model.modules())


@pytest.mark.parametrize("observer", sorted(OBSERVERS))
def test_json_round_trip(sam: Sam, samples: list[Sample], observer: str) -> None:
    ranges = calibrate(sam, samples[:1], observer=observer, progress=Silent())
    assert Ranges.from_json(ranges.to_json()) == ranges
    with pytest.raises(ArtifactError, match="calibration is malformed"):
        Ranges.from_json({"observer": "omse", "values": [1]})


def test_a_damaged_checkpoint_is_found(model_directory: object, samples: list[Sample]) -> None:
    damaged = load_sam(str(model_directory))
    damaged = replace(damaged, source="damaged")
    damaged.model.vision_encoder.layers[0].mlp.lin1.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericError, match=r"layers.0.mlp.lin2 holds NaN"):
        calibrate(damaged, samples, observer="omse", progress=Silent())
