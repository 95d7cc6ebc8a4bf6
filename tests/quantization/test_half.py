"""Every recipe on plans in which units have 16 bits."""

from pathlib import Path

import pytest
import torch

from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.numeric.half import HalfTensor, Unquantized
from mixqsam.numeric.honesty import check_model
from mixqsam.numeric.modules import StoredLayer
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import Quantized, quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.sam.load import Sam
from tests.oracles import half_mixture, logits_of

W16A16, W4A16 = UnitBits(16, 16), UnitBits(4, 16)


def run(sam: Sam, plan: BitPlan, samples: list[Sample], cache: Path, *, recipe: str) -> Quantized:
    options = ReconstructionOptions(iterations=4, batch=1)
    return quantize(sam, plan, samples, recipe=RECIPES[recipe], cache=Cache(cache), progress=Silent(), options=options)


def layers_of(sam: Sam) -> dict[str, StoredLayer]:
    return {name: module for name, module in sam.model.named_modules() if isinstance(module, StoredLayer)}


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_mixture_is_honest_and_the_same_again(sam: Sam, four: list[Sample], tmp_path: Path, recipe: str) -> None:
    plan = half_mixture(sam, seed=2)
    first = run(sam, plan, four, tmp_path, recipe=recipe)
    check_model(first.sam.model, plan)
    found = logits_of(first.sam, four[0])
    assert torch.isfinite(found).all()
    # The second time its pieces come from the cache.
    assert torch.equal(logits_of(run(sam, plan, four, tmp_path, recipe=recipe).sam, four[0]), found)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_nothing_is_left_to_do_at_16_bits(sam: Sam, four: list[Sample], tmp_path: Path, recipe: str) -> None:
    """Weights are those of the float model in half precision; a rewrite that a recipe does first may flip signs."""
    plan = BitPlan.uniform(sam.costs().units, W16A16)
    found = run(sam, plan, four, tmp_path, recipe=recipe).sam
    for name, layer in layers_of(found).items():
        exact = HalfTensor.nearest(sam.model.get_submodule(name).weight, name=name)
        assert isinstance(layer.input, Unquantized)
        assert torch.equal(layer.stored.dequantize().abs(), exact.dequantize().abs()), name


@pytest.mark.parametrize("recipe", ["compensated", "qdrop", "adaround"])
def test_weights_are_fitted_behind_float_activations(sam: Sam, four: list[Sample], tmp_path: Path, recipe: str) -> None:
    plan = BitPlan.uniform(sam.costs().units, W4A16)
    nearest = run(sam, plan, four, tmp_path, recipe="omse")
    fitted = run(sam, plan, four, tmp_path, recipe=recipe)
    assert fitted.logs
    assert sum(log.after for log in fitted.logs) <= sum(log.before for log in fitted.logs)
    if recipe == "compensated":
        plain = layers_of(nearest.sam)
        moved = [
            n
            for n, one in layers_of(fitted.sam).items()
            if not torch.equal(one.stored.dequantize(), plain[n].stored.dequantize())
        ]
        assert moved
        exact = logits_of(sam, four[0])
        errors = [float((logits_of(each.sam, four[0]) - exact).square().mean()) for each in (fitted, nearest)]
        assert errors[0] < errors[1]


def test_steps_leave_activations_of_16_bits_alone(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    """Grids of channels, hybrid and logarithmic grids, and clipping, next to operands without a quantizer."""
    units = sam.costs().units
    for recipe, roles in {
        "ahcptq": ("query-key-value", "mlp-in", "mlp-out"),
        "ptq4sam-s": ("mixing",),
        "saq-sam": ("query", "scores"),
    }.items():
        plan = BitPlan({u.name: UnitBits(4, 16 if u.role in roles else 4) for u in units})
        found = run(sam, plan, four, tmp_path, recipe=recipe).sam
        for unit in units:
            if unit.role not in roles:
                continue
            quantizers = found.model.get_submodule(unit.name).quantizers
            assert isinstance(quantizers[unit.operands[1]], Unquantized), (recipe, unit.name)
