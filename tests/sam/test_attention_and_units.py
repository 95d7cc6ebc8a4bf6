import pytest
import torch
from benchmarks.tiny import random_model, tiny_config
from torch.utils.flop_counter import FlopCounterMode
from transformers import SamConfig, SamModel

from mixqsam.families import prepare
from mixqsam.numeric import pieces
from mixqsam.plan import FLOAT, BitPlan, UnitBits
from mixqsam.sam.load import Sam
from mixqsam.sam.units import count_costs, unit_names

pytestmark = pytest.mark.versions


@pytest.mark.parametrize("piece_bytes", [64 << 20, 1], ids=["whole", "row by row"])
def test_the_engines_modules_compute_what_transformers_does(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    reference, ours = random_model(tiny_config()), prepare(random_model(tiny_config()))
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(2, 3, 80, 80, generator=generator)
    boxes = torch.rand(2, 3, 4, generator=generator) * 80
    with torch.no_grad():
        expected = reference(pixels, input_boxes=boxes, multimask_output=True)
        found = ours(pixels, input_boxes=boxes, multimask_output=True)
    torch.testing.assert_close(found.pred_masks, expected.pred_masks, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.iou_scores, expected.iou_scores, rtol=1e-4, atol=1e-5)


def test_multiply_adds_and_parameters_agree_with_torchs_flop_counter(sam: Sam) -> None:
    config = sam.config
    size = config.vision_config.image_size
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        sam.model(torch.zeros(1, 3, size, size), input_boxes=torch.tensor([[[1.0, 2, 30, 40]]]), multimask_output=False)
    flops = counter.get_flop_counts()
    costs = count_costs(config)
    for unit in costs.units:
        counted = sum(flops[f"SamModel.{unit.name}"].values())
        assert counted == 2 * unit.multiply_adds, unit.name
        if unit.parameters:
            assert unit.parameters == sam.model.get_submodule(unit.name).weight.numel()
    total = sum(p.numel() for p in sam.model.parameters())
    assert costs.float_bytes == 4 * (total - sum(u.parameters for u in costs.units))


@pytest.mark.parametrize(
    ("vision", "encoder", "total"),
    [
        ({}, 74, 120),
        ({"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}, 146, 192),
        ({"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16}, 194, 240),
    ],
    ids=["B", "L", "H"],
)
def test_units_of_the_released_sizes(vision: dict[str, int], encoder: int, total: int) -> None:
    costs = count_costs(SamConfig(vision_config=vision))
    assert len(costs.units) == total
    assert sum(unit.part == "encoder" for unit in costs.units) == encoder


def test_units_run_in_the_order_of_their_names(sam: Sam) -> None:
    ran: list[str] = []
    names = unit_names(sam.config)
    handles = [
        sam.model.get_submodule(n).register_forward_hook(lambda m, i, o, n=n: ran.append(n) if n not in ran else None)
        for n in names
    ]
    with torch.no_grad():
        sam.model(torch.zeros(1, 3, 80, 80), input_boxes=torch.tensor([[[1.0, 2, 30, 40]]]))
    for handle in handles:
        handle.remove()
    assert ran == names


def test_size_and_bitops_by_hand(sam: Sam) -> None:
    costs = count_costs(sam.config, prompts_per_image=3)
    plan = BitPlan.uniform(costs.units, UnitBits(4, 6))
    size = costs.compact_bytes + sum(
        u.parameters * 4 / 8 + 3 * u.channels + 5 * len(u.activations) for u in costs.units
    )
    assert costs.size(plan) == pytest.approx(size)
    bitops = sum(
        u.multiply_adds * (3 if u.part == "decoder" else 1) * (36 if u.kind == "product" else 24) for u in costs.units
    )
    assert costs.bitops(plan) == bitops
    assert costs.size(BitPlan.uniform(costs.units, FLOAT)) == 4 * sum(p.numel() for p in sam.model.parameters())


def test_sam_b_has_the_size_that_is_known() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in SamModel(SamConfig()).parameters()) == pytest.approx(93.7e6, rel=2e-3)
