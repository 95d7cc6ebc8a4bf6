"""Compensation of whole models: what is chosen, kept, resumed and combined."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixqsam.data.samples import Sample
from mixqsam.files import Cache
from mixqsam.numeric.attention import VisionAttention
from mixqsam.numeric.grouped import GroupedQuantizer
from mixqsam.numeric.honesty import check_model
from mixqsam.numeric.modules import QuantizedLayer
from mixqsam.numeric.moments import Moments
from mixqsam.numeric.weights import weight_grid
from mixqsam.plan import FLOAT, BitPlan, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.compensation.choose import Layer, _candidates, _Judge, choose, refit
from mixqsam.quantization.compensation.method import WAYS, Compensation
from mixqsam.quantization.compensation.shortcut import Shortcut
from mixqsam.quantization.quantize import Quantized, quantize
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.recipes import RECIPES
from mixqsam.quantization.steps.grouping import ChannelGrouping
from mixqsam.sam.forward import encode, make_frame
from mixqsam.sam.load import Sam
from tests.oracles import logits_of, mixture


def plan_of(sam: Sam, bits: int = 3) -> BitPlan:
    return BitPlan.uniform(sam.costs().units, UnitBits(bits, bits + 2))


def run(
    sam: Sam,
    samples: list[Sample],
    folder: Path,
    *,
    plan: BitPlan | None = None,
    progress: Any = None,
    recipe: Recipe | None = None,
    **changes: Any,
) -> Quantized:
    recipe = recipe or RECIPES["compensated"]
    assert recipe.compensation is not None
    recipe = replace(recipe, compensation=replace(recipe.compensation, **changes))
    return quantize(
        sam, plan or plan_of(sam), samples, recipe=recipe, cache=Cache(folder), progress=progress or Silent()
    )


def same(first: Sam, second: Sam, sample: Sample) -> bool:
    biases = [
        torch.equal(one.bias, second.model.get_submodule(name).bias)
        for name, one in first.model.named_modules()
        if isinstance(one, QuantizedLayer) and one.bias is not None
    ]
    return all(biases) and torch.equal(logits_of(first, sample), logits_of(second, sample))


# One layer


def layer_of(*, bits: int = 3, groups: int = 1, has_bias: bool = True) -> Layer:
    weight = torch.randn(8, 12 // groups, generator=torch.Generator().manual_seed(1))
    return Layer("unit", weight, groups, weight_grid(weight, bits=bits, observer="omse", name="w"), "omse", has_bias)


def inputs_of(groups: int = 1, *, seed: int, count: int = 400) -> tuple[Tensor, Tensor]:
    """Correlated inputs, always with the same mixing, and their roundings."""
    width = 12 // groups
    mixing = torch.randn(groups, width, width, generator=torch.Generator().manual_seed(7))
    exact = torch.randn(groups, count, width, generator=torch.Generator().manual_seed(seed)) @ mixing + 0.5
    return exact, exact.round()


def moments_of(exact: Tensor, quantized: Tensor) -> Moments:
    found = Moments()
    found.update(exact, quantized)
    return found


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_errors_that_are_compared_are_those_of_the_deployed_output(groups: int, has_bias: bool) -> None:
    layer, (exact, quantized) = layer_of(groups=groups, has_bias=has_bias), inputs_of(groups, seed=3)
    for rounded in choose(layer, moments_of(*inputs_of(groups, seed=2)), moments_of(exact, quantized), Compensation()):
        weight = rounded.weight.dequantize().double().reshape(groups, 8 // groups, -1)
        shift = 0 if rounded.shift is None else rounded.shift.double().reshape(groups, 1, -1)
        error = exact.double() @ layer.rows.mT - quantized.double() @ weight.mT - shift
        assert torch.allclose(rounded.errors, error.square().mean(1).reshape(-1), rtol=1e-3)
        assert has_bias or rounded.shift is None


@pytest.mark.parametrize("way", WAYS)
def test_each_way_alone_is_no_better_than_all_of_them(way: Any) -> None:
    layer, fit, aside = layer_of(), moments_of(*inputs_of(seed=2)), moments_of(*inputs_of(seed=3))
    nearest, best = choose(layer, fit, aside, Compensation())
    _, alone = choose(layer, fit, aside, Compensation(ways=(way,), forced=True))
    assert alone.way == way
    assert best.error <= alone.error
    assert best.error < 0.9 * nearest.error


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weighted", [False, True])
def test_fitting_again_is_choosing_on_all_inputs(way: Any, weighted: bool) -> None:
    layer, fit, aside = layer_of(), moments_of(*inputs_of(seed=2)), moments_of(*inputs_of(seed=3, count=100))
    method = Compensation(ways=(way,), forced=True, dampings=(0.1,), weighted_grids=weighted)
    _, best = choose(layer, fit, aside, method)
    again = refit(layer, best, fit.merged(aside), method)
    assert torch.equal(again.errors, best.errors)
    # What is fitted to all inputs at once; either grid may have been chosen.
    whole = moments_of(
        *(torch.cat(pair, 1) for pair in zip(inputs_of(seed=2), inputs_of(seed=3, count=100), strict=True))
    )
    if not weighted or best.weight.grid is not layer.grid:
        only = replace(method, weighted_grids=weighted)
        (*_, wanted) = _candidates(layer, whole.means(centred=True), only, _Judge(layer, whole, whole))
        assert torch.equal(again.weight.codes, wanted.weight.codes)
        assert again.shift is not None
        assert wanted.shift is not None
        assert torch.allclose(again.shift, wanted.shift, atol=1e-6)


def test_rounding_to_nearest_stays_where_the_inputs_mislead() -> None:
    layer, (exact, quantized) = layer_of(bits=8, has_bias=False), inputs_of(seed=2, count=3)
    # Fitted to three positions of which the others know nothing, with next to no damping.
    misleading = Compensation(dampings=(1e-9,))
    nearest, best = choose(layer, moments_of(exact * 5, quantized), moments_of(*inputs_of(seed=3)), misleading)
    _, forced = choose(
        layer,
        moments_of(exact * 5, quantized),
        moments_of(*inputs_of(seed=3)),
        replace(misleading, ways=("ridge-gptq",), forced=True),
    )
    assert forced.error > 2 * nearest.error
    assert best.error <= nearest.error
    assert best.way in {"nearest", "gptq"}


# Whole models


@pytest.mark.parametrize("inputs", ["float", "quantized"])
def test_every_layer_is_at_least_as_good_as_nearest_and_the_whole_is_better(
    sam: Sam, four: list[Sample], tmp_path: Path, inputs: str
) -> None:
    found = run(sam, four, tmp_path, inputs=inputs)
    layers = [unit.name for unit in sam.costs().units if unit.kind != "product"]
    assert [log.piece for log in found.logs] == layers
    assert all(log.after <= log.before for log in found.logs)
    assert sum(log.after < 0.9 * log.before for log in found.logs) > len(layers) / 2
    check_model(found.sam.model, plan_of(sam))
    nearest = quantize(sam, plan_of(sam), four, recipe=RECIPES["omse"], cache=Cache(tmp_path), progress=Silent()).sam

    def error(model: Sam) -> float:
        frames = [make_frame(sam, sample.open()) for sample in four]
        pairs = [(encode(model, frame)["embedding"], encode(sam, frame)["embedding"]) for frame in frames]
        return sum(float((one - other).square().sum()) for one, other in pairs)

    assert error(found.sam) < 0.9 * error(nearest)


def test_biases_move_and_the_float_model_does_not(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in sam.model.state_dict().items()}
    moved = run(sam, four, tmp_path).sam
    assert all(torch.equal(tensor, before[name]) for name, tensor in sam.model.state_dict().items())
    name = "vision_encoder.layers.0.mlp.lin1.bias"
    assert float((moved.model.get_parameter(name) - before[name]).abs().max()) > 1e-3
    left = run(sam, four, tmp_path / "left", biases=False).sam
    # Half precision, as the file will hold it.
    assert torch.equal(left.model.get_parameter(name), before[name].half().float())


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_are_enough(sam: Sam, four: list[Sample], tmp_path: Path, count: int) -> None:
    found = run(sam, four[:count], tmp_path)
    assert all(log.after <= log.before for log in found.logs)


def test_it_goes_with_other_grids_of_activations_and_units_in_float(
    sam: Sam, four: list[Sample], tmp_path: Path
) -> None:
    plan = mixture(sam, seed=5)
    assert FLOAT in plan.bits.values()
    recipe = replace(RECIPES["compensated"], name="grouped", observer="percentile", steps=(ChannelGrouping(),))
    found = run(sam, four, tmp_path, plan=plan, recipe=recipe).sam
    check_model(found.model, plan)
    grouped = [module for module in found.model.modules() if isinstance(module, GroupedQuantizer)]
    assert grouped
    assert all(len(one.scale) <= 4 for one in grouped)


class _Stopped(Exception):  # noqa: N818
    pass


class _Stopping(Silent):
    """Stops the run when it hears of a block."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.left = blocks

    def note(self, message: str) -> None:
        super().note(message)
        self.left -= 1
        if self.left == 0:
            raise _Stopped

    def track(self, items: Iterable[Any], **_: Any) -> Iterator[Any]:
        yield from items


def test_a_stopped_run_goes_on_with_the_next_block_and_ends_the_same(
    sam: Sam, four: list[Sample], tmp_path: Path
) -> None:
    whole = run(sam, four, tmp_path / "whole")
    with pytest.raises(_Stopped):
        run(sam, four, tmp_path / "stopped", progress=_Stopping(3))
    kept = sorted(path.name for path in tmp_path.glob("stopped/compensation-*/*.safetensors"))
    assert len(kept) == 3
    assert not list(tmp_path.glob("stopped/compensation-*/states"))
    progress = Silent()
    again = run(sam, four, tmp_path / "stopped", progress=progress)
    blocks = len({log.piece.rsplit(".", 2)[0] for log in whole.logs})
    assert len([note for note in progress.notes if "error" in note]) < blocks
    assert again.logs == whole.logs
    assert same(again.sam, whole.sam, four[0])


def test_a_damaged_block_is_made_again(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    first = run(sam, four, tmp_path)
    (path,) = tmp_path.glob("compensation-*/vision_encoder.layers.1.safetensors")
    path.write_bytes(path.read_bytes()[:500])
    progress = Silent()
    again = run(sam, four, tmp_path, progress=progress)
    assert any(f"{path} cannot be read" in note for note in progress.notes)
    assert same(again.sam, first.sam, four[0])


def test_what_changes_the_result_changes_where_it_is_kept(sam: Sam, four: list[Sample], tmp_path: Path) -> None:
    run(sam, four, tmp_path)
    run(sam, four, tmp_path)
    assert len(list(tmp_path.glob("compensation-*/"))) == 1
    run(sam, four, tmp_path, dampings=(0.5,))
    run(sam, four, tmp_path, plan=plan_of(sam, 4))
    assert len(list(tmp_path.glob("compensation-*/"))) == 3


@pytest.mark.parametrize(
    ("images", "side", "work", "selected", "rows"),
    [
        pytest.param(32, 1024, 486 * 10**9, 8, 2048, id="SAM-B"),
        pytest.param(32, 1024, 39 * 10**9, 16, 1024, id="MobileSAM"),
        pytest.param(32, 256, 2 * 10**9, 32, 512, id="sam-tiny"),
        pytest.param(3, 1024, 486 * 10**9, 3, 2048, id="few images"),
    ],
)
def test_large_images_have_positions_enough_in_a_few_of_them(
    images: int, side: int, work: int, selected: int, rows: int
) -> None:
    method = Compensation()
    found = method.select(range(images), side=side, work=work)
    assert len(found) == len(set(found)) == selected
    assert found == sorted(found)
    assert found[0] < images / selected
    assert found[-1] >= images - images / selected
    assert method.count_rows(len(found)) == rows


def test_an_attention_that_is_settled_is_skipped_and_the_result_is_the_same(
    sam: Sam, four: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[nn.Module] = []
    plain = VisionAttention.forward

    def count_calls(module: VisionAttention, *args: Any, **kwargs: Any) -> Any:
        calls.append(module)
        return plain(module, *args, **kwargs)

    monkeypatch.setattr(VisionAttention, "forward", count_calls)
    quick, fewer = run(sam, four[:2], tmp_path / "quick"), len(calls)
    monkeypatch.setattr(Shortcut, "taken", lambda *_: nullcontext())
    calls.clear()
    slow = run(sam, four[:2], tmp_path / "slow")
    # Three passes of each image and block: to the two layers of the MLP, and behind the block.
    assert len(calls) - fewer == 3 * 2 * sam.config.vision_config.num_hidden_layers
    assert quick.logs == slow.logs
    assert all(
        torch.equal(one, other)
        for one, other in zip(quick.sam.model.state_dict().values(), slow.sam.model.state_dict().values(), strict=True)
    )
    assert torch.equal(logits_of(quick.sam, four[3]), logits_of(slow.sam, four[3]))
