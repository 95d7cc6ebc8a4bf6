from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mixqsam.data.samples import Sample
from mixqsam.errors import OutputError
from mixqsam.files import Cache
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.honesty import check_model
from mixqsam.numeric.quantizers import GroupedQuantizer, LogQuantizer, Quantizer
from mixqsam.numeric.weights import weight_grid
from mixqsam.plan import FLOAT, BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.quantize import Quantized, quantize
from mixqsam.quantization.recipes import RECIPES
from mixqsam.quantization.reconstruction.fit import _merge_targets
from mixqsam.quantization.reconstruction.learnable import LearnableQuantizer, SoftWeight, coins
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.sam.load import Sam
from tests.oracles import logits_of

GENERATOR = torch.Generator().manual_seed(3)


def plan_of(sam: Sam, bits: int = 3) -> BitPlan:
    return BitPlan.uniform(sam.costs().units, UnitBits(bits, bits + 1))


def run(
    sam: Sam, samples: list[Sample], folder: Path, *, recipe: str = "qdrop", progress: Any = None, **options: Any
) -> Quantized:
    chosen = ReconstructionOptions(**{"iterations": 20, **options})
    return quantize(
        sam,
        plan_of(sam),
        samples,
        recipe=RECIPES[recipe],
        cache=Cache(folder),
        progress=progress or Silent(),
        options=chosen,
    )


# What is learned


def soft_weight() -> tuple[torch.Tensor, SoftWeight]:
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    return weight, SoftWeight(weight, weight_grid(weight, bits=3, observer="omse", name="w"))


def opening(alpha: torch.Tensor) -> torch.Tensor:
    return (1.2 * torch.sigmoid(alpha) - 0.1).clamp(0, 1)


def test_soft_rounding_begins_at_the_float_weight_and_hardens_onto_the_grid() -> None:
    weight, soft = soft_weight()
    grid = soft.grid
    low, high = -grid.zero * grid.scale, (7 - grid.zero) * grid.scale
    assert torch.allclose(soft(), weight.clamp(low, high), atol=1e-3)
    hard = soft.harden().dequantize()
    # Untouched, hardening is rounding to nearest; and never further than a step from the (clipped) weight.
    assert torch.allclose(hard, grid.project(weight), atol=1e-5)
    with torch.no_grad():
        soft.alpha.copy_(torch.randn(soft.alpha.shape, generator=torch.Generator().manual_seed(2)) * 5)
    moved = soft.harden().dequantize()
    assert bool(((moved - weight.clamp(low, high)).abs() <= grid.scale * 1.001).all())
    assert int(soft.harden().codes.max()) <= 7


def gradient(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


def test_gradients_of_soft_rounding_are_those_of_its_equation() -> None:
    _, soft = soft_weight()
    with torch.no_grad():
        soft.alpha.add_(torch.randn(soft.alpha.shape, generator=torch.Generator().manual_seed(4)))
    pull = torch.randn(5, 40, generator=torch.Generator().manual_seed(5))
    (soft() * pull).sum().backward()
    ours = gradient(soft.alpha).clone()
    alpha = soft.alpha.detach().clone().requires_grad_()
    codes = (soft._floor + opening(alpha)).clamp(0, 7)
    (((codes - soft.grid.zero) * soft.grid.scale) * pull).sum().backward()
    theirs = gradient(alpha)
    # At the very ends of a clamp autograd's choice of a gradient is a convention.
    inner = ((soft._floor >= 0) & (soft._floor < 7)) | (ours == theirs)
    assert inner.float().mean() > 0.5
    assert torch.allclose(ours[inner], theirs[inner], atol=1e-6)
    for beta in (20.0, 7.0, 2.0):
        soft.alpha.grad = None
        soft.settle(beta, weight=0.3)
        alpha.grad = None
        (0.3 * (1 - (2 * opening(alpha) - 1).abs().pow(beta)).sum()).backward()
        assert torch.allclose(gradient(soft.alpha), gradient(alpha), atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_gradients_of_learned_scales_are_those_of_straight_through_rounding(share: float) -> None:
    grid = AffineGrid.from_range(torch.tensor(-1.0), torch.tensor(2.0), bits=3)
    quantizer = LearnableQuantizer(Quantizer(grid), float_share=share, generator=torch.Generator().manual_seed(1))
    values = torch.randn(200, 6, generator=torch.Generator().manual_seed(2)) * 2
    pull = torch.randn(200, 6, generator=torch.Generator().manual_seed(3))
    ours = values.clone().requires_grad_()
    (quantizer(ours) * pull).sum().backward()
    kept = coins(values, share, generator=torch.Generator().manual_seed(1)).bool()
    theirs, logarithm = values.clone().requires_grad_(), torch.zeros(1, requires_grad=True)
    scale = grid.scale * logarithm.exp()
    steps = theirs / scale
    rounded = steps + (steps.round() - steps).detach()
    expected = torch.where(kept, theirs, rounded.clamp(-grid.zero, 7 - grid.zero) * scale)
    (expected * pull).sum().backward()
    assert torch.allclose(gradient(ours), gradient(theirs), atol=1e-5)
    assert quantizer.logarithm is not None
    assert torch.allclose(gradient(quantizer.logarithm), gradient(logarithm), rtol=1e-4)


def test_half_of_the_elements_are_dropped_while_learning_and_none_after() -> None:
    grid = AffineGrid.from_range(torch.tensor(-1.0), torch.tensor(1.0), bits=2)
    quantizer = LearnableQuantizer(Quantizer(grid), float_share=0.5, generator=GENERATOR)
    values = torch.rand(4000, generator=GENERATOR) * 2 - 1
    kept = (quantizer(values) == values).float().mean()
    assert 0.45 < float(kept) < 0.55
    assert quantizer.freeze()(values).unique().numel() <= 4
    assert torch.equal(LearnableQuantizer(Quantizer(grid), float_share=1.0, generator=GENERATOR)(values), values)
    fixed = LogQuantizer(3, scale=torch.tensor(1.0), tau=2)
    learnable = LearnableQuantizer(fixed, float_share=0.0, generator=GENERATOR)
    assert learnable.logarithm is None
    assert learnable.freeze() is fixed
    inputs = torch.rand(50, generator=GENERATOR).requires_grad_()
    learnable(inputs).sum().backward()
    assert torch.equal(gradient(inputs), torch.ones(50))


def test_scales_of_groups_are_learned_apart() -> None:
    start = GroupedQuantizer(
        3, scale=torch.tensor([0.1, 1.0]), zero=torch.tensor([3.0, 3.0]), group=torch.tensor([0, 1, 1])
    )
    quantizer = LearnableQuantizer(start, float_share=0.0, generator=GENERATOR)
    assert quantizer.logarithm is not None
    with torch.no_grad():
        quantizer.logarithm.copy_(torch.tensor([0.0, 0.5]))
    frozen = quantizer.freeze()
    assert isinstance(frozen, GroupedQuantizer)
    assert torch.allclose(frozen.grid.scale, torch.tensor([0.1, 1.6487, 1.6487]), atol=1e-3)
    values = torch.randn(20, 3, generator=GENERATOR)
    assert torch.allclose(quantizer(values), frozen(values), atol=1e-6)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_coins_fall_as_often_as_they_should(share: float) -> None:
    found = coins(torch.zeros(101, 99), share, generator=GENERATOR)
    assert found.shape == (101, 99)
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert abs(float(found.mean()) - share) < 0.02


def test_channels_are_merged_in_four_geometric_steps() -> None:
    assert _merge_targets(256, 4, 400) == {50: 91, 100: 32, 150: 11, 200: 4}
    assert _merge_targets(4, 4, 400) == {}
    assert list(_merge_targets(192, 4, 12).values())[-1] == 4


# The whole


@pytest.mark.parametrize("recipe", ["adaround", "brecq", "qdrop", "ahcptq", "saq-sam"])
def test_reconstruction_never_ends_worse_than_nearest_and_mostly_better(
    sam: Sam, four: list[Sample], tmp_path: Path, recipe: str
) -> None:
    logs = run(sam, four, tmp_path, recipe=recipe, iterations=60).logs
    assert all(log.after <= log.before for log in logs)
    assert sum(log.after < 0.98 * log.before for log in logs) >= len(logs) / 2
    # Block inputs are gone, finished pieces are kept.
    assert not list(tmp_path.glob("reconstruction-*/states"))
    assert list(tmp_path.glob("reconstruction-*/*.safetensors"))


class Stops(Silent):
    """Presses Ctrl-C after a number of pieces."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def note(self, message: str) -> None:
        super().note(message)
        self._left -= "loss" in message
        if self._left <= 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("recipe", ["adaround", "qdrop", "ahcptq", "saq-sam"])
def test_a_stopped_reconstruction_goes_on_and_ends_the_same(
    sam: Sam, four: list[Sample], tmp_path: Path, recipe: str
) -> None:
    undisturbed = run(sam, four, tmp_path / "a", recipe=recipe)
    for after in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(sam, four, tmp_path / "b", recipe=recipe, progress=Stops(after))
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "b").glob("reconstruction-*/*.safetensors")}
    assert len(kept) >= 2
    again = run(sam, four, tmp_path / "b", recipe=recipe)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert list(again.logs) == list(undisturbed.logs)
    for sample in four:
        assert torch.equal(logits_of(again.sam, sample), logits_of(undisturbed.sam, sample))


def test_a_finished_piece_that_is_damaged_is_fitted_again(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    first = run(sam, four, tmp_path)
    path = next(tmp_path.glob("reconstruction-*/vision_encoder.layers.1.safetensors"))
    path.write_bytes(path.read_bytes()[:-50])
    progress = Silent()
    second = run(sam, four, tmp_path, progress=progress)
    assert any("cannot be read; its piece is fitted again" in note for note in progress.notes)
    assert torch.equal(logits_of(second.sam, four[0]), logits_of(first.sam, four[0]))
    assert load_file(path)


def test_a_loss_that_is_not_finite_stops_the_piece_and_keeps_the_best(
    sam: Sam, four: list[Sample], tmp_path: Path
) -> None:
    progress = Silent()
    found = run(sam, four, tmp_path, progress=progress, scale_rate=1e30)
    assert {log.ending for log in found.logs} == {"not finite"}
    assert all(log.after <= log.before for log in found.logs)
    assert any("the loss is not finite after" in n and "the best so far is kept" in n for n in progress.notes)
    check_model(found.sam.model, plan_of(sam))
    assert bool(torch.isfinite(logits_of(found.sam, four[0])).all())


def test_a_flat_loss_stops_early(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    # Nothing moves: rounding is not learned in the second phase, and the scales' rate is zero.
    method = RECIPES["brecq"].method
    assert method is not None
    scales = replace(RECIPES["brecq"], method=replace(method, phases=method.phases[1:]))
    found = quantize(
        sam,
        plan_of(sam),
        four,
        recipe=scales,
        cache=Cache(tmp_path),
        progress=Silent(),
        options=ReconstructionOptions(iterations=200, scale_rate=0.0),
    )
    assert {log.ending for log in found.logs} == {"flat"}
    # Half of the iterations are the scales'; a look every tenth of them, and three without a gain.
    assert {log.iterations for log in found.logs} == {40}


def test_units_in_float_stay_float_and_a_float_block_is_skipped(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    bits = {n: FLOAT if n.startswith("vision_encoder.layers.0.") else b for n, b in plan_of(sam).bits.items()}
    found = quantize(
        sam,
        BitPlan(bits),
        four,
        recipe=RECIPES["qdrop"],
        cache=Cache(tmp_path),
        progress=Silent(),
        options=ReconstructionOptions(iterations=5),
    )
    assert "vision_encoder.layers.0" not in {log.piece for log in found.logs}
    assert found.sam.model.vision_encoder.layers[0].mlp.lin1 is not None
    check_model(found.sam.model, BitPlan(bits))


def test_two_processes_do_not_reconstruct_the_same(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    class Twice(Silent):
        def track(
            self, items: Iterable[Any], *, label: str, total: int, steps: Callable[[Any], int] | None = None
        ) -> Iterator[Any]:
            if label == "vision_encoder.layers.1":
                with pytest.raises(OutputError, match="working on the same reconstruction"):
                    run(sam, four, tmp_path)
            yield from super().track(items, label=label, total=total, steps=steps)

    run(sam, four, tmp_path, progress=Twice())


def test_images_in_a_step_add_up(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    logs = run(sam, four, tmp_path, batch=3, iterations=10).logs
    assert all(log.after <= log.before for log in logs)
