"""Units from a trace: the same names in the same order as the published list, each with its role and its block."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from benchmarks.tiny import tiny_config
from transformers import SamConfig

from mixqsam.errors import ModelError
from mixqsam.families import FAMILIES
from mixqsam.families.sam import SAM
from mixqsam.plan import Unit
from mixqsam.sam.trace import trace
from mixqsam.sam.units import count_costs, unit_names

ENCODER = ("attn.qkv", "attn.qk", "attn.av", "attn.proj", "mlp.lin1", "mlp.lin2")
ATTENTION = ("q_proj", "k_proj", "v_proj", "qk", "av", "out_proj")
ROLES = {
    "qkv": "query-key-value",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "qk": "scores",
    "av": "mixing",
    "proj": "projection",
    "out_proj": "projection",
    "lin1": "mlp-in",
    "lin2": "mlp-out",
    "conv1": "convolution",
    "conv2": "convolution",
}


def listed(config: SamConfig) -> list[tuple[str, str]]:
    """Units of SAM by the papers' rule, and their blocks, written down apart from the product."""
    depth = config.vision_config.num_hidden_layers
    found = [(f"vision_encoder.layers.{i}.{tail}", str(i)) for i in range(depth) for tail in ENCODER]
    found += [(f"vision_encoder.neck.conv{i}", "neck") for i in (1, 2)]
    root = "mask_decoder.transformer"
    for i in range(config.mask_decoder_config.num_hidden_layers):
        layer, block = f"{root}.layers.{i}", f"decoder {i}"
        for attention in ("self_attn", "cross_attn_token_to_image"):
            found += [(f"{layer}.{attention}.{tail}", block) for tail in ATTENTION]
        found += [(f"{layer}.mlp.{tail}", block) for tail in ("lin1", "lin2")]
        found += [(f"{layer}.cross_attn_image_to_token.{tail}", block) for tail in ATTENTION]
    return found + [(f"{root}.final_attn_token_to_image.{tail}", "decoder end") for tail in ATTENTION]


CONFIGS: dict[str, Callable[[], SamConfig]] = {
    "tiny": tiny_config,
    "B": SamConfig,
    "L": lambda: SamConfig(vision_config={"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}),
}


@pytest.mark.parametrize("size", CONFIGS)
def test_the_trace_finds_the_units_in_the_published_order(size: str) -> None:
    config = CONFIGS[size]()
    assert unit_names(config) == [name for name, _ in listed(config)]


def test_every_unit_has_its_role_block_and_attention() -> None:
    config = tiny_config()
    blocks = dict(listed(config))
    for unit in count_costs(config).units:
        parent, _, tail = unit.name.rpartition(".")
        assert unit.role == ROLES[tail], unit.name
        assert unit.block == blocks[unit.name]
        assert unit.part == ("encoder" if unit.name.startswith("vision_encoder") else "decoder")
        assert unit.attention == (None if tail.startswith(("lin", "conv")) else parent)


def test_blocks_hold_every_unit_once_and_follow_one_from_the_other() -> None:
    found = trace(tiny_config(decoder_layers=2))
    paths = [call.path for call in (*found.encoder.calls, *found.decoder.calls)]
    assert paths == [
        "vision_encoder.layers.0",
        "vision_encoder.layers.1",
        "vision_encoder.neck",
        "mask_decoder.transformer.layers.0",
        "mask_decoder.transformer.layers.1",
        "mask_decoder.transformer.final_attn_token_to_image",
    ]
    for unit in found.units:
        assert sum(unit.name.startswith(f"{path}.") for path in paths) == 1
    # The encoder hands one tensor on; before the final attention code of the transformer's own runs.
    assert found.encoder.runs_through(0)
    assert found.encoder.outputs == {"embedding": "vision_encoder.neck>0"}
    assert [found.decoder.follows(index) for index in (1, 2)] == [True, False]
    # Of a decoder layer's three results, nothing reads the last.
    assert [len(call.read) for call in found.decoder.calls] == [2, 2, 1]
    assert [len(call.results) for call in found.decoder.calls] == [3, 3, 1]


def test_costs_are_counted_again_where_the_configuration_changes() -> None:
    config = tiny_config()
    before = count_costs(config, prompts_per_image=2)
    config.vision_config.mlp_dim *= 2
    after = count_costs(config)

    def macs(units: tuple[Unit, ...]) -> dict[str, int]:
        return {unit.name: unit.multiply_adds for unit in units}

    name = "vision_encoder.layers.0.mlp.lin1"
    assert macs(after.units)[name] == 2 * macs(before.units)[name]
    assert (before.prompts_per_image, after.prompts_per_image) == (2, 1)


def test_a_family_that_leaves_out_a_role_or_a_block_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {tail: role for tail, role in SAM.roles.items() if tail != "lin2"}
    monkeypatch.setitem(FAMILIES, "sam", replace(SAM, roles=roles))
    with pytest.raises(ModelError, match=r"does not say the role of the unit vision_encoder.layers.0.mlp.lin2"):
        trace(tiny_config())
    monkeypatch.setitem(FAMILIES, "sam", replace(SAM, blocks=lambda config: SAM.blocks(config)[1:]))
    with pytest.raises(ModelError, match=r"no block with the unit vision_encoder.layers.0.attn.qkv"):
        trace(tiny_config())


def test_tracing_takes_no_memory_for_weights() -> None:
    config = SamConfig(vision_config={"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16})
    before = torch.get_default_device()
    assert len(trace(config).units) == 240
    assert torch.get_default_device() == before
