from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.tiny import random_model, tiny_config

from mixqsam.analysis import variants
from mixqsam.analysis.ablation import Effects, ablate, importance, interaction, proximity, zero
from mixqsam.analysis.measure import MeasurementOptions, analyze
from mixqsam.analysis.outputs import OUTPUTS
from mixqsam.analysis.sensitivity import QuantizedVariants
from mixqsam.analysis.variants import Variant, run_prefix, run_variants
from mixqsam.calibrate import Ranges, calibrate
from mixqsam.data.samples import Sample
from mixqsam.errors import ArtifactError
from mixqsam.families import prepare
from mixqsam.measurements import Analysis
from mixqsam.pipeline.options import Session
from mixqsam.plan import BitPlan, Role, Unit, UnitBits
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam, default_processor
from mixqsam.sam.units import unit_names
from mixqsam.weight_grids import WeightGrids
from tests.oracles import logits_of, nearest


@pytest.fixture(scope="module")
def ranges(sam: Sam, samples: list[Sample]) -> Ranges:
    return calibrate(sam, samples, observer="omse", progress=Silent())


@pytest.mark.parametrize("tokens", [1 << 14, 25, 60], ids=["one batch", "one by one", "by two"])
def test_variants_equal_whole_passes_with_that_unit_zeroed(
    monkeypatch: pytest.MonkeyPatch, sam: Sam, samples: list[Sample], tokens: int
) -> None:
    monkeypatch.setattr(variants, "_MAX_TOKENS", tokens)
    monkeypatch.setattr(variants, "_MAX_PROMPT_TOKENS", 2 * tokens)
    names = unit_names(sam.config)
    found = run_variants(sam, run_prefix(sam, samples[0]), [Variant({name: zero}) for name in names])
    seen = {i: one for indices, logits in found for i, one in zip(indices, logits, strict=True)}
    assert sorted(seen) == list(range(len(names)))
    for i, name in enumerate(names):
        expected = logits_of(sam, samples[0], zeroed=(name,))
        torch.testing.assert_close(seen[i], expected, rtol=1e-4, atol=1e-4, msg=name)


def test_shared_effects_are_exact(samples: list[Sample]) -> None:
    # With two layers in the decoder, outputs of the first are keys of the second.
    config = tiny_config(decoder_layers=2)
    sam = Sam(prepare(random_model(config)), default_processor(config), "two layers")
    names, effects = unit_names(sam.config), Effects(sam.costs().units)
    shared = 0
    for group in [(n,) for n in names] + list(pairwise(names)):
        short = tuple(sorted(effects.reduce(group)))
        if short != tuple(sorted(group)):
            shared += 1
            expected = logits_of(sam, samples[0], zeroed=group)
            torch.testing.assert_close(logits_of(sam, samples[0], zeroed=short), expected, rtol=1e-4, atol=1e-4)
    assert shared > 60


def test_effects_go_by_roles_and_not_by_names() -> None:
    def unit(name: str, role: Role, attention: str | None = None) -> Unit:
        return Unit(name, "linear", "encoder", 4, 2, 8, role, "0", attention)

    units = [
        unit("a.joint", "query-key-value", "a"),
        unit("a.first", "scores", "a"),
        unit("a.second", "mixing", "a"),
        unit("a.last", "projection", "a"),
        unit("m.wide", "mlp-in"),
        unit("m.narrow", "mlp-out"),
        unit("b.wide", "mlp-in"),
        unit("b.narrow", "mlp-out"),
        unit("c.key", "key", "c"),
        unit("n.one", "convolution"),
        unit("n.two", "convolution"),
    ]
    effects = Effects(units)
    assert effects.reduce(["a.joint"]) == {"a.second"}
    assert effects.reduce(["a.joint", "a.first"]) == {"a.second"}
    assert effects.reduce(["a.second", "a.last"]) == {"a.last"}
    assert effects.reduce(["m.wide", "m.narrow"]) == {"m.narrow"}
    assert effects.reduce(["m.narrow", "b.wide"]) == {"m.narrow", "b.wide"}
    # Its attention has no scores of its own, and two convolutions of a block are two things.
    assert effects.reduce(["c.key"]) == {"c.key"}
    assert effects.reduce(["n.one", "n.two"]) == {"n.one", "n.two"}


def test_divergences_equal_the_oracles(sam: Sam, samples: list[Sample]) -> None:
    names = unit_names(sam.config)
    pairs = list(pairwise(names))
    single, joint = ablate(sam, run_prefix(sam, samples[0]), names=names, pairs=pairs, progress=Silent())
    reference = logits_of(sam, samples[0])
    for output, divergence in OUTPUTS.items():
        for value, name in zip(single[output], names, strict=True):
            expected = float(divergence(reference, logits_of(sam, samples[0], zeroed=(name,))[None]))
            assert value == pytest.approx(expected, rel=1e-3, abs=1e-7), name
        for value, pair in list(zip(joint[output], pairs, strict=True))[::5]:
            expected = float(divergence(reference, logits_of(sam, samples[0], zeroed=pair)[None]))
            assert value == pytest.approx(expected, rel=1e-3, abs=1e-7), pair


def test_importance_sums_to_one_and_weighs_images_alike() -> None:
    divergences = np.array([[1.0, 3.0], [1000.0, 1000.0], [0.0, 0.0]])
    assert importance(divergences).tolist() == pytest.approx([(0.25 + 0.5 + 0.5) / 3, (0.75 + 0.5 + 0.5) / 3])


def test_synergies_by_hand() -> None:
    divergences = np.array([[1.0, 1.0, 2.0]])
    near, far = proximity(divergences)
    assert (near, far) == pytest.approx((np.log1p(1 / 0.01), np.log1p(1 / 0.26)))
    # Together as much as apart: no interaction. Together as much as one: redundant, which is dependence.
    joint = np.array([[2.0, 2.0]])
    assert interaction(divergences, joint) == pytest.approx([0.0, np.log1p(1 / 4 * 3)])


def test_measured_sensitivity_is_that_of_the_quantized_model(sam: Sam, samples: list[Sample], ranges: Ranges) -> None:
    weights = WeightGrids(sam, observer="omse")
    variants_ = QuantizedVariants(sam, ranges, weights, bits=(3, 8))
    flat = variants_.measure(sam, run_prefix(sam, samples[0]), progress=Silent())
    reference = logits_of(sam, samples[0])
    units = sam.costs().units
    for output, divergence in OUTPUTS.items():
        arranged = QuantizedVariants.arrange(np.array(flat[output]), bits=(3, 8))
        assert (arranged[:, 0, 0] > 0).all()
        for i, unit in enumerate(units[:14]):
            if unit.kind != "product":
                continue
            # Only a product's operands can be quantized apart in the quantized model: both, here, at 8 bits.
            plan = BitPlan({**BitPlan.uniform(units, UnitBits(32, 32)).bits, unit.name: UnitBits(8, 3)})
            model = nearest(sam, plan, ranges)
            expected = float(divergence(reference, logits_of(model, samples[0])[None]))
            both = arranged[i, unit.operands.index("left"), 0] + arranged[i, unit.operands.index("right"), 1]
            assert both == pytest.approx(expected, rel=0.35, abs=1e-6)


def test_more_bits_mean_less_divergence_on_average(sam: Sam, samples: list[Sample], ranges: Ranges) -> None:
    measured = QuantizedVariants(sam, ranges, WeightGrids(sam, observer="omse"), bits=(2, 4, 8)).measure(
        sam, run_prefix(sam, samples[0]), progress=Silent()
    )
    for values in measured.values():
        mean = np.array(values).reshape(-1, 3).mean(axis=0)
        assert mean[0] > 2 * mean[1] > 20 * mean[2]


def run(sam: Sam, samples: list[Sample], ranges: Ranges, session: Session, options: MeasurementOptions) -> Analysis:
    return analyze(
        sam,
        samples,
        ranges=ranges,
        weights=WeightGrids(sam, observer="omse"),
        options=options,
        cache=session.cache,
        progress=session.progress,
    )


def test_sensitivities_of_older_files_are_read(
    sam: Sam, samples: list[Sample], ranges: Ranges, session: Session
) -> None:
    analysis = run(sam, samples[:1], ranges, session, MeasurementOptions(pairs=False, sensitivity_bits=(2, 8)))
    written = analysis.to_json()
    assert set(written["sensitivity"]["spatial"][sam.costs().units[0].name]) == {"weight", "input"}
    older = {
        name: {"weight": values[:, 0].tolist(), "activation": values[:, 1].tolist()}
        for name, values in analysis.sensitivity.items()
    }
    for version in (1, 2):
        again = Analysis.from_json(written | {"version": version, "sensitivity": older}, source="x")
        for name, values in analysis.sensitivity.items():
            np.testing.assert_array_equal(again.sensitivity[name], values)
    broken: list[dict[str, Any]] = [{"spatial": {}}, {"spatial": {"weight": older["spatial"]["weight"]}}]
    for spoiled in broken:
        with pytest.raises(ArtifactError, match="x is malformed"):
            Analysis.from_json(written | {"sensitivity": spoiled}, source="x")


def test_analysis_is_readable_and_round_trips(
    sam: Sam, samples: list[Sample], ranges: Ranges, session: Session
) -> None:
    analysis = run(sam, samples, ranges, session, MeasurementOptions(pairs=True, sensitivity_bits=(2, 8)))
    for omega in analysis.importance.values():
        assert omega.sum() == pytest.approx(1)
    assert set(analysis.synergy) == {f"{e}/{o}" for e in ("proximity", "interaction") for o in OUTPUTS}
    again = Analysis.from_json(analysis.to_json(), source="x")
    assert again.units == analysis.units
    np.testing.assert_allclose(again.sensitivity["spatial"], analysis.sensitivity["spatial"], rtol=1e-8)
    for change in ({"version": 4}, {"format": "y"}, {"importance": {"bernoulli": [1.0]}}, {"units": 3}):
        with pytest.raises(ArtifactError, match="x "):
            Analysis.from_json(analysis.to_json() | change, source="x")


def test_importance_is_not_measured_again_without_pairs(
    monkeypatch: pytest.MonkeyPatch, sam: Sam, samples: list[Sample], ranges: Ranges, session: Session
) -> None:
    import mixqsam.analysis.measure as module

    calls: list[Sample] = []

    def counted(model: Sam, sample: Sample) -> object:
        calls.append(sample)
        return run_prefix(model, sample)

    monkeypatch.setattr(module, "run_prefix", counted)
    alone = run(sam, samples[:1], ranges, session, MeasurementOptions(pairs=False))
    both = run(sam, samples, ranges, session, MeasurementOptions(pairs=True))
    assert len(calls) == 3
    again = run(sam, samples[:1], ranges, session, MeasurementOptions(pairs=False))
    run(sam, samples, ranges, session, MeasurementOptions(pairs=True))
    assert len(calls) == 3
    assert set(again.synergy) < set(both.synergy)
    np.testing.assert_allclose(again.importance["spatial"], alone.importance["spatial"], rtol=1e-3)


def test_a_stopped_analysis_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, sam: Sam, samples: list[Sample], ranges: Ranges, session: Session
) -> None:
    import mixqsam.analysis.measure as module

    calls: list[Sample] = []

    def counted(model: Sam, sample: Sample) -> variants.Prefix:
        if len(calls) == 1:
            calls.append(sample)
            raise KeyboardInterrupt
        calls.append(sample)
        return run_prefix(model, sample)

    monkeypatch.setattr(module, "run_prefix", counted)
    with pytest.raises(KeyboardInterrupt):
        run(sam, samples, ranges, session, MeasurementOptions(pairs=False))
    resumed = run(sam, samples, ranges, session, MeasurementOptions(pairs=False))
    assert [s.image_id for s in calls] == [1, 2, 2]
    monkeypatch.setattr(module, "run_prefix", run_prefix)
    fresh = run(
        sam,
        samples,
        ranges,
        replace(session, cache=type(session.cache)(session.cache.root / "b")),
        MeasurementOptions(pairs=False),
    )
    assert resumed.to_json() == fresh.to_json()
