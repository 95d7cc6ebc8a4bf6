"""Fisher sensitivity: what gradients say of the divergence, against what it is."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import allocate
from mixqsam.allocation.program import Objective
from mixqsam.analysis import fisher, gradients
from mixqsam.analysis.error_products import error_products, weight_error_products
from mixqsam.analysis.fisher import SCORES, FisherMeter, alike, steady
from mixqsam.analysis.gradients import gradients_met
from mixqsam.analysis.measure import MeasurementOptions, analyze
from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.analysis.sensitivity import QuantizedVariants
from mixqsam.analysis.variants import run_prefix
from mixqsam.calibrate import Ranges, calibrate
from mixqsam.data.samples import Sample
from mixqsam.errors import ArtifactError, BudgetError
from mixqsam.measurements import Analysis
from mixqsam.numeric import pieces, rough
from mixqsam.numeric.affine import AffineGrid
from mixqsam.numeric.quantizers import Quantizer
from mixqsam.numeric.weights import project_weight, weight_grid
from mixqsam.pipeline.options import Session
from mixqsam.plan import CANDIDATE_BITS, Operand, Unit
from mixqsam.progress import Silent
from mixqsam.sam.forward import embed_prompts, make_frame, prompt_tensors
from mixqsam.sam.load import Sam, load_sam
from mixqsam.weight_grids import WeightGrids
from tests.families.released import random_mobile_sam, tiny_config
from tests.oracles import logits_of

_DRAWS = 40


@pytest.fixture(scope="module")
def ranges(sam: Sam, samples: list[Sample]) -> Ranges:
    return calibrate(sam, samples, observer="omse", progress=Silent())


@pytest.fixture(scope="module")
def weights(sam: Sam) -> WeightGrids:
    return WeightGrids(sam, observer="omse")


@pytest.fixture(scope="module")
def meter(sam: Sam, ranges: Ranges, weights: WeightGrids) -> FisherMeter:
    return FisherMeter(sam, ranges, weights)


@pytest.fixture(scope="module")
def measured(meter: FisherMeter, samples: list[Sample]) -> np.ndarray:
    return meter.measure(samples[0], output="bernoulli", draws=_DRAWS)


@pytest.fixture(scope="module")
def estimates(measured: np.ndarray) -> np.ndarray:
    whole: np.ndarray = measured[0]
    return whole


def second_order(sam: Sam, sample: Sample, ranges: Ranges, weights: WeightGrids, unit: Unit, operand: Operand) -> float:
    """½·mean(p(1 − p)·(J·Δ)²) at 4 bits, the change J·Δ of the logits taken from a small step along the error Δ."""
    step = 0.02
    module = sam.model.get_submodule(unit.name if unit.kind != "product" else f"{unit.name}.{operand}")
    plain = logits_of(sam, sample).double()
    if operand == "weight":
        assert isinstance(module.weight, Tensor)
        kept = module.weight.data.clone()
        module.weight.data += step * (project_weight(kept, weights.grid(unit.name, bits=4)) - kept)
        moved = logits_of(sam, sample).double()
        module.weight.data = kept
    else:
        quantizer = Quantizer(ranges.grid(unit.name, operand=operand, bits=4))

        def move(_: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0] + step * (quantizer(inputs[0]) - inputs[0]),)

        handle = module.register_forward_pre_hook(move)
        moved = logits_of(sam, sample).double()
        handle.remove()
    p = torch.sigmoid(plain)
    return float((p * (1 - p) * ((moved - plain) / step) ** 2).mean() / 2)


def test_the_mean_of_many_draws_is_the_second_order_of_the_divergence(
    sam: Sam, samples: list[Sample], ranges: Ranges, weights: WeightGrids, estimates: np.ndarray
) -> None:
    mean, ratios = estimates.mean(axis=0), []
    units = sam.costs().units
    for index in range(0, len(units), 4):
        for place, operand in enumerate(units[index].operands):
            expected = second_order(sam, samples[0], ranges, weights, units[index], operand)
            # Below this the logits' own rounding shows.
            if expected > 1e-10:
                ratios.append(mean[index, place, CANDIDATE_BITS.index(4)] / expected)
    # A draw has the square of a normal variable: its relative deviation is √2, that of the mean √(2/40) = 0.22.
    assert len(ratios) > 15
    assert np.abs(np.log(ratios)).max() < 1
    assert np.mean(ratios) == pytest.approx(1, abs=0.2)


def test_at_eight_bits_it_is_what_is_measured(
    sam: Sam, samples: list[Sample], ranges: Ranges, weights: WeightGrids, estimates: np.ndarray
) -> None:
    variants = QuantizedVariants(sam, ranges, weights, bits=(8,))
    flat = variants.measure(sam, run_prefix(sam, samples[0]), progress=Silent())["bernoulli"]
    measured, estimated = np.array(flat), estimates.mean(axis=0)[..., CANDIDATE_BITS.index(8)].ravel()
    clear = measured > 1e-11
    assert clear.sum() > 20
    ratio = np.log(estimated[clear] / measured[clear])
    assert np.abs(np.median(ratio)) < 0.3
    assert np.quantile(np.abs(ratio), 0.9) < np.log(2)


def test_spatial_scores_give_the_spatial_divergence(
    sam: Sam, samples: list[Sample], ranges: Ranges, weights: WeightGrids, meter: FisherMeter
) -> None:
    values = meter.measure(samples[0], output="spatial", draws=20)[0].mean(axis=0)[..., -1].ravel()
    variants = QuantizedVariants(sam, ranges, weights, bits=(8,))
    flat = variants.measure(sam, run_prefix(sam, samples[0]), progress=Silent())["spatial"]
    clear = np.array(flat) > 1e-11
    assert clear.sum() > 20
    assert np.median(values[clear] / np.array(flat)[clear]) == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize("output", sorted(SCORES))
def test_scores_have_the_covariance_of_the_distribution(output: str) -> None:
    logits = torch.randn(1, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    drawn = torch.Generator().manual_seed(2)
    scores = torch.stack([SCORES[output](logits, drawn).flatten() for _ in range(4000)]).double()
    covariance = scores.t() @ scores / len(scores)
    step = 1e-3
    for direction in torch.eye(6).reshape(6, 1, 1, 2, 3):
        divergence = float(OUTPUTS[output](logits, (logits.double() + step * direction)[None]))
        scale = 6 if output == "bernoulli" else 1
        curvature = 2 * divergence * scale / step**2
        vector = direction.flatten().double()
        assert float(vector @ covariance @ vector) == pytest.approx(curvature, rel=0.2)
    assert scores.mean(0).abs().max() < 0.05


def test_error_products_by_hand() -> None:
    values, gradient = torch.randn(2, 3, 50_000), torch.randn(2, 3, 50_000)
    quantizers = [Quantizer(AffineGrid(b, torch.tensor(8 / 2**b), torch.tensor(2.0 ** (b - 1)))) for b in (2, 5)]
    found = error_products(quantizers, values, gradient, groups=2)
    errors = [((one(values) - values).double() * gradient.double()).sum((1, 2)) for one in quantizers]
    squares = [((one(values) - values).double() * gradient.double()).square().sum((1, 2)) for one in quantizers]
    torch.testing.assert_close(found[0], torch.stack(errors, dim=1), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(found[1], torch.stack(squares, dim=1), rtol=1e-4, atol=1e-2)


def test_error_products_of_weights_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixqsam.analysis.error_products._PIECE", 500)
    weight, gradient = torch.randn(30, 20, 5), torch.randn(3, 3000)
    grids = [weight_grid(weight, bits=bits, observer="minmax", name="w") for bits in (2, 5)]
    found = weight_error_products(weight, grids, gradient)
    for place, grid in enumerate(grids):
        error = (project_weight(weight, grid) - weight).reshape(-1).double() * gradient.double()
        torch.testing.assert_close(found[0, :, place], error.sum(1), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found[1, :, place], error.square().sum(1), rtol=1e-4, atol=1e-3)


def test_what_is_computed_again_is_what_would_be_kept(
    meter: FisherMeter, samples: list[Sample], measured: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[object] = []

    def count(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        again.append(forward)
        return checkpoint(forward, *args, **kwargs)

    monkeypatch.setattr(gradients, "checkpoint", count)
    kept = meter.measure(samples[0], output="bernoulli", draws=2)
    assert not again
    # The first block is kept whatever it takes: what it takes is known afterwards.
    monkeypatch.setattr(gradients, "_KEPT_BYTES", 1)
    np.testing.assert_array_equal(meter.measure(samples[0], output="bernoulli", draws=2), kept)
    assert again
    np.testing.assert_array_equal(kept, measured[:, :2])


def test_the_diagonal_takes_most_of_the_noise_out() -> None:
    """Divergences of 100 operands with the noise of 16 draws, and a share of common errors that falls with the bits."""
    rng = np.random.default_rng(0)
    diagonal = rng.lognormal(-9, 2, (50, 2, 1)) * 4.0 ** -np.array(CANDIDATE_BITS) * rng.lognormal(0, 0.5, (50, 2, 7))
    truth = diagonal * np.exp(rng.uniform(0, 2, (50, 2, 1)) - rng.uniform(0, 0.3, (50, 2, 1)) * np.arange(7))
    drawn = truth * rng.chisquare(16, truth.shape) / 16
    noisy, steadied = (np.abs(np.log(found / truth)).mean() for found in (drawn, steady(drawn, diagonal)))
    assert steadied < 0.6 * noisy


def test_no_image_decides_alone() -> None:
    rng = np.random.default_rng(0)
    shape = rng.lognormal(-9, 2, (1, 2, 5, 2, 7))
    images = shape * rng.lognormal(0, 3, (6, 1, 1, 1, 1))
    found = alike(images)
    np.testing.assert_allclose(found / found.sum(), shape[0] / shape[0].sum())
    np.testing.assert_allclose(found[1].mean(), images[:, 1].mean())
    loud = images.copy()
    loud[0] = 1e6 * rng.lognormal(-9, 2, loud[0].shape)
    moved = alike(loud)
    assert np.abs(np.log(moved / moved[1].sum() / (found / found[1].sum()))).mean() < 0.6


def test_steady_keeps_an_exact_line_and_what_has_no_error() -> None:
    diagonal = np.array([[[4.0**-b for b in CANDIDATE_BITS]] * 2])
    whole = diagonal * 3 * 1.2 ** -np.arange(len(CANDIDATE_BITS))
    np.testing.assert_allclose(steady(whole, diagonal), whole)
    nothing = np.zeros_like(whole)
    np.testing.assert_array_equal(steady(nothing, nothing), nothing)


def test_channels_with_grids_of_their_own_are_rounded_on_them(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    random_mobile_sam(tiny_config()).save_pretrained(tmp_path)
    mobile = load_sam(tmp_path)
    ranges = calibrate(mobile, samples, observer="omse", progress=Silent())
    weights = WeightGrids(mobile, observer="minmax")
    monkeypatch.setattr(fisher, "CANDIDATE_BITS", (4,))
    estimated = FisherMeter(mobile, ranges, weights).measure(samples[0], output="bernoulli", draws=30)[0].mean(axis=0)
    variants = QuantizedVariants(mobile, ranges, weights, bits=(4,))
    flat = variants.measure(mobile, run_prefix(mobile, samples[0]), progress=Silent())["bernoulli"]
    measured = np.array(flat).reshape(estimated.shape)
    depthwise = [index for index, unit in enumerate(mobile.costs().units) if unit.role == "depthwise"]
    ratios = estimated[depthwise] / measured[depthwise]
    assert len(depthwise) > 3
    # On one grid for all channels, the inputs' estimates are some nine times what is measured.
    assert np.abs(np.log(ratios).mean(axis=0)).max() < np.log(1.7)


def test_draws_of_an_image_are_always_the_same(meter: FisherMeter, samples: list[Sample]) -> None:
    one, two = (meter.measure(samples[0], output="bernoulli", draws=count) for count in (1, 2))
    np.testing.assert_array_equal(one[:, 0], two[:, 0])
    assert not np.allclose(two[:, 0], two[:, 1])


def test_few_images_have_more_draws_each(
    monkeypatch: pytest.MonkeyPatch,
    sam: Sam,
    samples: list[Sample],
    ranges: Ranges,
    weights: WeightGrids,
    session: Session,
) -> None:
    plain, counts = FisherMeter.measure, []

    def counted(self: FisherMeter, sample: Sample, *, output: str, draws: int) -> np.ndarray:
        counts.append(draws)
        return plain(self, sample, output=output, draws=1)

    monkeypatch.setattr(fisher.FisherMeter, "measure", counted)
    run(sam, samples[:1], ranges, weights, session, draws=5)
    run(sam, samples[:2], ranges, weights, session, draws=5)
    assert counts == [5, 3, 3]
    # What was multiplied in float32 does not stand for what would be multiplied in bfloat16.
    monkeypatch.setattr(rough, "_LARGE", 1)
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)
    for _ in range(2):
        run(sam, samples[:1], ranges, weights, session, draws=5)
    assert counts == [5, 3, 3, 5]


def test_no_gradient_of_an_activation_is_kept(sam: Sam, samples: list[Sample], meter: FisherMeter) -> None:
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def activation(unit: Unit, operand: Operand, values: Tensor, gradient: Tensor) -> None:
        alive.append(sum(one() is not None for one in seen))
        seen.append(weakref.ref(gradient))

    frame = make_frame(sam, samples[0].open())
    prompts = embed_prompts(sam, prompt_tensors(sam, samples[0].prompts, frame))
    with torch.enable_grad(), gradients_met(sam, activation=activation, weight=lambda *_: None):
        maps = sam.family.encode(sam.model, frame.pixels)
        sam.family.decode(sam.model, maps, prompts, multimask=False)[0].sum().backward()
    gc.collect()
    assert len(seen) >= len(sam.costs().units)
    # Few wait for their sum with another's at any time, whatever the number of units.
    assert max(alive) < 12
    assert not any(one() is not None for one in seen)


def test_attention_in_slices_has_the_same_divergences(
    monkeypatch: pytest.MonkeyPatch, samples: list[Sample], meter: FisherMeter
) -> None:
    """Their gradients are computed again in the backward pass, within a block that is computed again too."""
    whole = meter.measure(samples[0], output="bernoulli", draws=2)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1)
    monkeypatch.setattr(pieces, "SLICE_BYTES", 1 << 13)
    np.testing.assert_allclose(meter.measure(samples[0], output="bernoulli", draws=2), whole, rtol=1e-3)


@pytest.mark.parametrize("slice_bytes", [None, 1 << 13], ids=["whole attention", "slices"])
def test_products_in_bfloat16_have_nearly_the_same_divergences(
    monkeypatch: pytest.MonkeyPatch,
    samples: list[Sample],
    meter: FisherMeter,
    measured: np.ndarray,
    slice_bytes: int | None,
) -> None:
    if slice_bytes is not None:
        monkeypatch.setattr(pieces, "PIECE_BYTES", 1)
        monkeypatch.setattr(pieces, "SLICE_BYTES", slice_bytes)
    monkeypatch.setattr(rough, "_LARGE", 1)
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)
    short = meter.measure(samples[0], output="bernoulli", draws=_DRAWS)
    assert not np.array_equal(short, measured)
    ratios = np.log(short.mean(axis=1) / measured.mean(axis=1))
    # Values are rounded to other sides of their grids, so single products differ; they are not smaller or larger.
    assert np.abs(np.median(ratios, axis=(1, 2))).max() < 0.05
    assert ratios[1].std() < 0.1


def test_the_model_is_left_as_it_was(sam: Sam, samples: list[Sample], meter: FisherMeter) -> None:
    before = logits_of(sam, samples[0])
    meter.measure(samples[0], output="bernoulli", draws=1)
    torch.testing.assert_close(logits_of(sam, samples[0]), before, rtol=0, atol=0)
    assert not any("forward" in module.__dict__ for module in sam.model.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in sam.model.parameters())


def run(
    sam: Sam, samples: list[Sample], ranges: Ranges, weights: WeightGrids, session: Session, *, draws: int = 32
) -> Analysis:
    return analyze(
        sam,
        samples,
        ranges=ranges,
        weights=weights,
        options=MeasurementOptions(importance=False, pairs=False, fisher=("bernoulli",), draws=draws),
        cache=session.cache,
        progress=session.progress,
    )


def test_a_stopped_measurement_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
    sam: Sam,
    samples: list[Sample],
    ranges: Ranges,
    weights: WeightGrids,
    session: Session,
) -> None:
    plain, calls = FisherMeter.measure, []

    def counted(self: FisherMeter, sample: Sample, *, output: str, draws: int) -> np.ndarray:
        calls.append(sample.image_id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(self, sample, output=output, draws=draws)

    monkeypatch.setattr(fisher.FisherMeter, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        run(sam, samples, ranges, weights, session, draws=2)
    resumed = run(sam, samples, ranges, weights, session, draws=2)
    assert calls == [1, 2, 2]
    fresh = run(
        sam, samples, ranges, weights, replace(session, cache=type(session.cache)(session.cache.root / "b")), draws=2
    )
    assert resumed.to_json() == fresh.to_json()


def test_the_file_is_read_again_and_allocates(
    sam: Sam, samples: list[Sample], ranges: Ranges, weights: WeightGrids, session: Session
) -> None:
    analysis = run(sam, samples[:1], ranges, weights, session)
    assert not analysis.importance
    assert not analysis.synergy
    written = analysis.to_json()
    again = Analysis.from_json(written, source="x")
    np.testing.assert_allclose(again.fisher["bernoulli"], analysis.fisher["bernoulli"], rtol=1e-8)
    objective = Objective("bernoulli", "fisher", "proximity", 0.0)
    budget = Budget.parse("W4A4")
    found = allocate(again, budget, objective=objective, tied=False)
    assert found.gap == 0
    assert found.size <= allocate(again, Budget.parse("uniform:W4A4"), objective=objective).size
    older = {key: value for key, value in written.items() if key != "fisher"}
    without = Analysis.from_json(older, source="x")
    others = Objective("bernoulli", "exponential", "x", 0.0), Objective("bernoulli", "measured", "x", 0.0)
    for one, option in zip((objective, *others), ("--fisher bernoulli", "--importance", "2,4,8"), strict=True):
        with pytest.raises(BudgetError, match=f"run `mixqsam analyze.*{option}"):
            allocate(without, budget, objective=one)
    # What it does hold is offered.
    with pytest.raises(BudgetError, match=r"or choose --utility fisher\.$"):
        allocate(again, budget, objective=others[0])
    with pytest.raises(ArtifactError, match="x is malformed"):
        Analysis.from_json(written | {"fisher": {"bernoulli": {}}}, source="x")
