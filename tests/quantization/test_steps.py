from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixqsam.calibrate import cached_ranges
from mixqsam.data import samples as data_samples
from mixqsam.data.images import image_digest
from mixqsam.data.samples import Sample
from mixqsam.errors import MixqsamError
from mixqsam.files import Cache
from mixqsam.numeric import rough
from mixqsam.numeric.honesty import distinct_values
from mixqsam.numeric.quantizers import QUANTIZERS, GroupedQuantizer, HybridQuantizer, LogQuantizer, Quantizer
from mixqsam.plan import BitPlan, Operand, Unit, UnitBits
from mixqsam.progress import Silent
from mixqsam.quantization.nearest import draft
from mixqsam.quantization.setting import Setting, observed
from mixqsam.quantization.steps.bimodal import find_signs, is_bimodal, merge_bimodal
from mixqsam.quantization.steps.clipping import STEPS, PerceptualClipping, _best, _Tokens
from mixqsam.quantization.steps.granularity import AdaptiveGranularity
from mixqsam.quantization.steps.grouping import ChannelGrouping
from mixqsam.quantization.steps.hybrid import HybridLogUniform
from mixqsam.sam.hooks import watched
from mixqsam.sam.load import Sam
from mixqsam.weight_grids import GridLibrary
from tests.oracles import logits_of

BITS = st.integers(2, 8)


def setting_of(sam: Sam, samples: list[Sample], folder: Path, *, bits: int = 4) -> Setting:
    cache, plan = Cache(folder), BitPlan.uniform(sam.costs().units, UnitBits(bits, bits))
    ranges = cached_ranges(sam, samples, observer="omse", cache=cache, progress=Silent())
    weights = GridLibrary().of(sam, observer="omse")
    return Setting(sam, sam.costs().units, plan, samples, ranges, weights, cache, Silent())


# Quantizers


def log_slowly(value: float, *, bits: int, scale: float, tau: int) -> float:
    if value <= 0:
        return 0.0
    code = min(max(round(-tau * np.log2(value / scale)), 0), 2**bits - 1)
    return 0.0 if code == 2**bits - 1 else scale * 2 ** (-code / tau)


@given(BITS, st.sampled_from([1, 2, 4]), st.floats(1e-3, 1.0))
def test_the_logarithmic_quantizer_is_its_equation(bits: int, tau: int, scale: float) -> None:
    quantizer = LogQuantizer(bits, scale=torch.tensor(scale), tau=tau)
    # Away from the borders between codes, where float32 and float64 may round apart.
    values = torch.cat([torch.zeros(1), torch.logspace(-8, 0, 97)])
    expected = torch.tensor([log_slowly(float(v), bits=bits, scale=float(np.float32(scale)), tau=tau) for v in values])
    near = (-tau * torch.log2(values / scale) % 1 - 0.5).abs() < 1e-3
    assert torch.allclose(quantizer(values)[~near], expected[~near], rtol=1e-5)


def hybrid_slowly(value: float, *, bits: int, low: float, knee: float, span: float, logs: int) -> float:
    x = min(max(value - low, 0.0), span)
    if x <= knee:
        code = logs - 1 if x <= 0 else min(max(round(-np.log2(x / knee)), 0), logs - 1)
        return low + (0.0 if code == logs - 1 else knee * 2.0**-code)
    step = (span - knee) / (2**bits - logs)
    return float(low + knee + round((x - knee) / step) * step)


@given(BITS, st.sampled_from([0.1, 0.3, 0.5]), st.sampled_from([1 / 8, 1 / 4, 1 / 2]))
def test_the_hybrid_quantizer_is_its_equation(bits: int, ratio: float, share: float) -> None:
    low, span, logs = -0.17, 3.1, max(2, round(share * 2**bits))
    numbers = {"low": low, "knee": ratio * span, "span": span}
    quantizer = HybridQuantizer(bits, log_levels=logs, **{k: torch.tensor(v) for k, v in numbers.items()})
    values = torch.linspace(-0.5, 3.5, 211)
    found = quantizer(values)
    expected = torch.tensor([hybrid_slowly(float(v), bits=bits, logs=logs, **numbers) for v in values])
    # A few values lie on a border between two levels.
    assert int(((found - expected).abs() > 1e-4).sum()) <= 3
    assert bool((found.diff() >= -1e-6).all())
    # 0.17 is not a float32: the ends of the range are met to rounding.
    assert float((quantizer(torch.tensor([low, low + span])) - torch.tensor([low, low + span])).abs().max()) < 1e-6


@given(BITS)
def test_every_kind_has_at_most_2_to_the_b_values_is_idempotent_and_survives_storage(bits: int) -> None:
    kinds = [
        LogQuantizer(bits, scale=torch.tensor(0.8), tau=2),
        HybridQuantizer(
            bits,
            low=torch.tensor(-0.2),
            knee=torch.tensor(0.5),
            span=torch.tensor(3.0),
            log_levels=max(2, 2**bits // 4),
        ),
        GroupedQuantizer(
            bits, scale=torch.tensor([0.1, 0.5]), zero=torch.tensor([1.0, 3.0]), group=torch.tensor([0, 1, 1])
        ),
    ]
    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    for quantizer in kinds:
        assert int(distinct_values(quantizer).max()) <= 2**bits
        once = quantizer(values)
        assert torch.allclose(quantizer(once), once, atol=1e-6)
        again = QUANTIZERS[quantizer.kind].restore(bits, quantizer.tensors())
        assert torch.equal(again(values), once)


@pytest.mark.parametrize(
    ("kind", "tensors"),
    [
        ("affine", {"scale": torch.tensor(0.0), "zero": torch.tensor(1, dtype=torch.uint8)}),
        ("affine", {"scale": torch.tensor(1.0), "zero": torch.tensor(16, dtype=torch.uint8)}),
        ("log", {"scale": torch.tensor(-1.0), "tau": torch.tensor(1)}),
        (
            "hybrid",
            {
                "low": torch.tensor(0.0),
                "knee": torch.tensor(2.0),
                "span": torch.tensor(1.0),
                "log_levels": torch.tensor(4),
            },
        ),
        (
            "hybrid",
            {
                "low": torch.tensor(0.0),
                "knee": torch.tensor(1.0),
                "span": torch.tensor(2.0),
                "log_levels": torch.tensor(16),
            },
        ),
        ("grouped", {"scale": torch.ones(2), "zero": torch.zeros(2), "group": torch.tensor([0, 2])}),
        ("grouped", {"scale": torch.ones(2), "zero": torch.zeros(1), "group": torch.tensor([0, 1])}),
    ],
)
def test_a_quantizer_that_makes_no_sense_is_not_restored(kind: str, tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"scale|knee|logarithmic|group"):
        QUANTIZERS[kind].restore(4, tensors)


# Bimodal integration


def test_two_modes_are_told_from_one_and_from_three() -> None:
    rng = np.random.default_rng(0)
    modes = [rng.normal(center, 0.3, 2000) for center in (-4, 0, 4)]
    assert is_bimodal(np.concatenate([modes[0], modes[2]]))
    assert not is_bimodal(modes[1])
    assert not is_bimodal(np.concatenate(modes))
    assert not is_bimodal(np.zeros(100))


def plan_of(sam: Sam) -> BitPlan:
    return BitPlan.uniform(sam.costs().units, UnitBits(4, 4))


def bimodal(sam: Sam) -> Sam:
    """The tiny model with keys of two modes: the biases of k_proj pull half of the channels down and half up."""
    changed = draft(sam)
    for name in ("layers.0.cross_attn_token_to_image", "final_attn_token_to_image"):
        layer = changed.model.get_submodule(f"mask_decoder.transformer.{name}.k_proj")
        signs = torch.where(torch.arange(layer.out_features) % 3 == 0, -1.0, 1.0)
        layer.bias = torch.nn.Parameter(layer.bias.detach() * 0 + 8 * signs, requires_grad=False)
        layer.weight = torch.nn.Parameter(layer.weight.detach() * 0.3, requires_grad=False)
    return changed


def test_merging_two_modes_leaves_the_outputs_as_they_were(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    two = bimodal(sam)
    signs = find_signs(two, samples, Silent())
    assert {name.rpartition("transformer.")[2] for name in signs} == {
        "layers.0.cross_attn_token_to_image",
        "final_attn_token_to_image",
    }
    merged = merge_bimodal(two, plan_of(two), samples, Cache(tmp_path), Silent())
    for sample in samples:
        assert torch.allclose(logits_of(merged, sample), logits_of(two, sample), atol=1e-5, rtol=1e-5)
    keys: list[torch.Tensor] = []
    path = "mask_decoder.transformer.final_attn_token_to_image.k_proj"
    with watched(merged.model, {path: lambda _, output: keys.append(output.reshape(-1, output.shape[-1]))}):
        logits_of(merged, samples[0])
    assert bool((torch.cat(keys).mean(0) > 0).all())
    # The second time it is read from the cache, and other tensors are shared.
    assert torch.equal(
        merge_bimodal(two, plan_of(two), samples, Cache(tmp_path), Silent()).model.get_submodule(path).weight,
        merged.model.get_submodule(path).weight,
    )
    assert merged.model.vision_encoder.pos_embed is two.model.vision_encoder.pos_embed


# Choices of quantizers


def test_adaptive_granularity_is_at_least_as_good_as_any_single_candidate(
    sam: Sam, samples: list[Sample], tmp_path: Path
) -> None:
    setting = setting_of(sam, samples, tmp_path)
    chosen = AdaptiveGranularity().choose(setting, observed(setting))
    name = "vision_encoder.layers.1.attn.av"
    quantizer = chosen[name, "left"]
    assert isinstance(quantizer, LogQuantizer)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    setting.watch({name: lambda inputs, _: seen.append((inputs[0].clone(), inputs[1].clone()))}, label="")

    def error(one: torch.nn.Module) -> float:
        return sum(float((one(a) @ v - a @ v).abs().pow(2.4).mean()) for a, v in seen)

    largest = max(float(a.max()) for a, _ in seen)
    others = [LogQuantizer(4, scale=torch.tensor(largest * f), tau=t) for t in (1, 2, 4) for f in (1, 0.5, 0.25)]
    # It was chosen on some of the rows only.
    assert error(quantizer) <= 1.1 * min(error(one) for one in others)
    assert isinstance(chosen[name, "right"], Quantizer)
    assert isinstance(chosen["vision_encoder.layers.1.mlp.lin2", "input"], Quantizer)


def test_hybrid_grids_are_put_on_lin2_alone(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    setting = setting_of(sam, samples, tmp_path)
    chosen = HybridLogUniform().choose(setting, observed(setting))
    hybrids = {unit for (unit, _), one in chosen.items() if isinstance(one, HybridQuantizer)}
    assert hybrids == {unit.name for unit in setting.units if unit.name.endswith("lin2")}
    assert HybridLogUniform().choose(setting, observed(setting))[min(hybrids), "input"].tensors() == (
        chosen[min(hybrids), "input"].tensors()
    )


def test_channels_of_like_range_are_grouped() -> None:
    scale = torch.tensor([1.0, 10.0, 0.1, 1.02, 10.1, 0.101, 0.99, 40.0])
    start = GroupedQuantizer(4, scale=scale, zero=torch.full((8,), 7.0), group=torch.arange(8))
    merged = start.merged(4)
    group = merged.group.tolist()
    assert len(merged.scale) == 4
    assert group[0] == group[3] == group[6]
    assert group[1] == group[4]
    assert group[2] == group[5]
    assert len(set(group)) == 4
    assert torch.allclose(merged.grid.scale, scale, rtol=0.05)
    assert merged.merged(4) is merged


def test_grouping_needs_as_many_channels_as_groups(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    setting = setting_of(sam, samples, tmp_path)
    narrow = Unit("vision_encoder.layers.0.attn.qkv", "linear", "encoder", 9, 3, 1, "query-key-value", "0")
    setting = Setting(
        sam, [narrow], setting.plan, samples, setting.ranges, setting.weights, setting.cache, setting.progress
    )
    with pytest.raises(MixqsamError, match=r"layers.0.attn.qkv has 3 input channels; grouping needs 4"):
        ChannelGrouping().choose(setting, {})


def test_clipping_keeps_more_of_the_focus_than_no_clipping(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    setting = setting_of(sam, samples, tmp_path, bits=3)
    before = observed(setting)
    chosen = PerceptualClipping().choose(setting, before)
    changed = {key for key in before if chosen[key] is not before[key]}
    name = "mask_decoder.transformer.layers.0.cross_attn_token_to_image"
    assert {(f"{name}.q_proj", "input"), (f"{name}.qk", "left"), (f"{name}.qk", "right")} <= changed
    assert all(unit.startswith("mask_decoder") for unit, _ in changed)
    assert len(STEPS) == 29
    assert (STEPS[0], round(STEPS[-1], 5)) == (0.85, 0.99999)


def test_clipping_takes_the_percentile_with_the_best_overlap(sam: Sam, samples: list[Sample], tmp_path: Path) -> None:
    setting = setting_of(sam, samples, tmp_path, bits=2)
    name = "mask_decoder.transformer.layers.0.self_attn"
    module = sam.model.get_submodule(name)
    tokens = _Tokens()
    watchers = {
        f"{name}.q_proj": lambda inputs, _: tokens.add(tokens.queries, inputs[0]),
        f"{name}.k_proj": lambda inputs, _: tokens.add(tokens.keys, inputs[0]),
    }
    setting.watch(watchers, label="")
    # One token far out: the wider percentiles waste their levels on it.
    tokens.queries[0][..., 0, 0] = 60.0
    clipped: dict[tuple[str, Operand], int] = {
        ("q", "input"): 3,
        ("k", "input"): 3,
        ("qk", "left"): 3,
        ("qk", "right"): 3,
    }
    ranges = _best(module, tokens, clipped)
    assert ranges["q/input"][1] < 60.0


def test_images_are_read_once_for_all_that_is_remembered(
    sam: Sam, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = setting_of(sam, samples, tmp_path)
    read: list[Path] = []

    def count(path: Path) -> str:
        read.append(path)
        return image_digest(path)

    setting = replace(setting, samples=[replace(sample) for sample in samples])
    monkeypatch.setattr(data_samples, "image_digest", count)
    chosen = HybridLogUniform().choose(setting, ChannelGrouping().choose(setting, observed(setting)))
    assert len({unit for (unit, _), one in chosen.items() if not isinstance(one, Quantizer)}) > 5
    assert sorted(read) == sorted(sample.path for sample in samples)
    first, other = samples[0], replace(samples[0], prompts=samples[0].prompts.at_most(1, seed=0))
    assert replace(first).digest() == first.digest() != other.digest()


def test_what_is_remembered_depends_on_how_passes_round(
    sam: Sam, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = setting_of(sam, samples, tmp_path)
    exact = setting.key("stage")
    monkeypatch.setattr(rough, "_LARGE", 1)
    monkeypatch.setattr(rough, "_has_bfloat16", lambda: True)
    assert setting.key("stage") != exact
