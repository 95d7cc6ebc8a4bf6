"""Blocks run from captured arguments give, bit by bit, what they give in a forward."""

import pytest
import torch
from torch import Tensor

from mixqsam.data.samples import Sample
from mixqsam.plan import Part
from mixqsam.sam.calls import State, put_together, skipped
from mixqsam.sam.forward import decode_batch, embed_prompts, encode, make_frame, prompt_tensors
from mixqsam.sam.load import Sam
from mixqsam.sam.replay import blocks_of, chain_of, image_tokens, output_maps, record, skip_to_maps, stages


def values_of(sam: Sam, sample: Sample, part: Part) -> State:
    """What flows between a part's blocks in a plain forward."""
    frame = make_frame(sam, sample.open())
    if part == "encoder":
        return record(sam.model, chain_of(sam, part), lambda: encode(sam, frame))[0]
    maps = encode(sam, frame)
    prompts = embed_prompts(sam, prompt_tensors(sam, sample.prompts, frame))
    return record(sam.model, chain_of(sam, part), lambda: decode_batch(sam, maps, prompts))[0]


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@torch.no_grad()
def test_every_block_replays_bit_by_bit(sam: Sam, samples: list[Sample], part: Part) -> None:
    values = values_of(sam, samples[0], part)
    for block in blocks_of(sam, part):
        call = block.chain.calls[block.start]
        found = call.run(sam.model, {name: values[name] for name in call.inputs})
        assert list(found) == list(call.results)
        for name, tensor in found.items():
            assert torch.equal(tensor, values[name]), (block.name, name)
    assert not any("forward" in vars(module) for module in sam.model.modules())


@torch.no_grad()
def test_the_final_attention_ends_with_its_normalisation(sam: Sam, samples: list[Sample]) -> None:
    values = values_of(sam, samples[0], "decoder")
    final = blocks_of(sam, "decoder")[-1]
    seen: list[Tensor] = []
    norm = sam.model.mask_decoder.transformer.layer_norm_final_attn
    handle = norm.register_forward_hook(lambda m, i, o: seen.append(o))
    values_of(sam, samples[0], "decoder")
    handle.remove()
    assert torch.equal(values[final.outputs[0]], seen[0])


def test_to_compute_with_what_was_skipped_and_is_not_known_is_an_error(sam: Sam, samples: list[Sample]) -> None:
    chain, frame = chain_of(sam, "encoder"), make_frame(sam, samples[0].open())
    with skipped(sam.model, chain.calls[:1], {}), pytest.raises((RuntimeError, ValueError, NotImplementedError)):
        encode(sam, frame)
    assert not any("forward" in vars(module) for module in sam.model.modules())


@torch.no_grad()
def test_blocks_one_after_the_other_are_the_encoder(sam: Sam, samples: list[Sample]) -> None:
    frame = make_frame(sam, samples[0].open())
    blocks = blocks_of(sam, "encoder")
    state: State = record(sam.model, blocks[0].chain, lambda: encode(sam, frame), until=0)[0]
    for block in blocks:
        assert len(state) == 1  # one image's tokens, nothing else, wait on disk
        state = block.after(block.run(sam, state))
    assert torch.equal(output_maps(blocks[0].chain, state)["embedding"], encode(sam, frame)["embedding"])


@torch.no_grad()
def test_a_forward_stops_before_a_block_with_what_it_needs(sam: Sam, samples: list[Sample]) -> None:
    everything = values_of(sam, samples[0], "decoder")
    chain, frame = chain_of(sam, "decoder"), make_frame(sam, samples[0].open())
    maps = encode(sam, frame)
    prompts = embed_prompts(sam, prompt_tensors(sam, samples[0].prompts, frame))
    for index, call in enumerate(chain.calls):
        state, result = record(sam.model, chain, lambda: decode_batch(sam, maps, prompts), until=index)
        assert result is None
        assert state.keys() == chain.live(index)
        for name, tensor in state.items():
            assert torch.equal(tensor, everything[name])
        put_together((call.args, call.kwargs), state)
    # Tokens are both the first queries and their own embedding: they are kept once.
    assert len(chain.live(0)) == 3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in sam.model.modules())


def test_blocks_name_all_units(sam: Sam) -> None:
    blocks = [*blocks_of(sam, "encoder"), *blocks_of(sam, "decoder")]
    assert [unit for block in blocks for unit in block.units] == [unit.name for unit in sam.costs().units]
    for unit in sam.costs().units:
        assert next(block.name for block in blocks if unit.name in block.units) + "." in unit.name


@torch.no_grad()
def test_stages_end_with_a_global_attention(sam: Sam, samples: list[Sample]) -> None:
    found = stages(blocks_of(sam, "encoder"))
    assert [stage.name for stage in found] == ["vision_encoder.layers.0-1", "vision_encoder.neck"]
    assert len(found[0].units) == 12
    frame = make_frame(sam, samples[0].open())
    state: State = record(sam.model, found[0].chain, lambda: encode(sam, frame), until=0)[0]
    for stage in found:
        state = stage.after(stage.run(sam, state))
    assert torch.equal(output_maps(found[0].chain, state)["embedding"], encode(sam, frame)["embedding"])


@torch.no_grad()
def test_what_lies_between_an_encoder_block_and_the_neck_is_skipped(sam: Sam, samples: list[Sample]) -> None:
    first, _, neck = blocks_of(sam, "encoder")
    values = values_of(sam, samples[0], "encoder")
    hidden = values[first.outputs[0]]
    found = skip_to_maps(sam, first, {first.outputs[0]: hidden})
    assert torch.equal(found["embedding"], sam.model.vision_encoder.neck(hidden))
    whole = skip_to_maps(sam, neck, {neck.outputs[0]: values[neck.outputs[0]]})
    assert whole["embedding"] is values[neck.outputs[0]]


def test_gradients_flow_from_the_image_tokens_to_the_maps(sam: Sam, samples: list[Sample]) -> None:
    frame = make_frame(sam, samples[0].open())
    maps = {"embedding": encode(sam, frame)["embedding"].clone().requires_grad_()}
    prompts = embed_prompts(sam, prompt_tensors(sam, samples[0].prompts, frame))
    tokens = image_tokens(sam, maps, prompts)
    seen: dict[str, Tensor] = {}
    transformer = sam.model.mask_decoder.transformer
    handle = transformer.register_forward_hook(lambda m, i, o: seen.update(tokens=o[1]))
    decode_batch(sam, maps, prompts)
    handle.remove()
    assert torch.equal(tokens, seen["tokens"])
    tokens.square().sum().backward()
    gradient = maps["embedding"].grad
    assert gradient is not None
    assert bool((gradient != 0).any())
