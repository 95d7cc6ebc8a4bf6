"""Run many variants of a model on one image, each only from its first changed block.

The values between the encoder's blocks are stored. A change in block k runs only blocks k, … and the decoder; a change
in the decoder runs only the decoder. Variants with the same first block run as one batch. Each has its share of the
batch axis, and hooks change only that share.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixqsam.data.samples import Sample
from mixqsam.errors import ModelError
from mixqsam.families.family import Maps
from mixqsam.progress import Progress
from mixqsam.sam.calls import State, skipped
from mixqsam.sam.forward import Frame, decode_batch, embed_prompts, encode, make_frame, prompt_tensors, visible
from mixqsam.sam.hooks import Alteration, altered
from mixqsam.sam.load import Sam
from mixqsam.sam.replay import chain_of, output_maps, record

# Changes a module's output; receives only the variant's share of the batch.
Change = Alteration

# Indices of variants, and their logits [len(indices), P, M, h, w].
Results = Iterator[tuple[list[int], Tensor]]

# Maximum tokens of a batch of variants, prompt-token pairs of a batch of decoders, and elements of the widest output of
# any unit (256 MB): they limit the memory.
_MAX_TOKENS = 1 << 14
_MAX_PROMPT_TOKENS = 1 << 16
_MAX_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class Variant:
    """A model with some modules changed.

    Attributes:
        changes: dotted path of a module → the change of its output.
    """

    changes: Mapping[str, Change]


@dataclass(frozen=True)
class Prefix:
    """Values that the unchanged model computed on one image.

    Attributes:
        frame: the image.
        values: inputs of the encoder's blocks, each [1, …].
        maps: outputs of the encoder.
        prompts: embedded prompts, inputs of the decoder.
        logits: the unchanged output, cut to the image: [P, M, h, w].
    """

    frame: Frame
    values: State
    maps: Maps
    prompts: Maps
    logits: Tensor


@torch.no_grad()
def run_prefix(sam: Sam, sample: Sample) -> Prefix:
    """Run the unchanged model on a sample, and store the values that variants start from."""
    frame = make_frame(sam, sample.open())
    values, maps = record(sam.model, chain_of(sam, "encoder"), lambda: encode(sam, frame))
    prompts = embed_prompts(sam, prompt_tensors(sam, sample.prompts, frame))
    logits, _ = decode_batch(sam, maps, prompts)
    return Prefix(frame, values, maps, prompts, visible(logits[0], frame))


@torch.no_grad()
def run_variants(sam: Sam, prefix: Prefix, variants: Sequence[Variant]) -> Results:
    """Run variants on a prefix, a batch at a time.

    Yields:
        indices into `variants`, and their logits [len(indices), P, M, h, w], cut to the image. Each variant is
        yielded once, in any order.
    """
    block_paths = [call.path for call in chain_of(sam, "encoder").calls]
    starts = [_first_block(variant, block_paths) for variant in variants]
    tokens = prefix.maps["embedding"].shape[-2:].numel()
    widths = _widest_outputs(sam, block_paths)
    for start in sorted(set(starts)):
        same_start = [index for index, variant_start in enumerate(starts) if variant_start == start]
        in_encoder = start < len(block_paths)
        batch = _batch_size(tokens, prompts=len(prefix.logits), in_encoder=in_encoder)
        batch = min(batch, max(1, _MAX_ELEMENTS // max(widths[start:], default=1)))
        for offset in range(0, len(same_start), batch):
            chunk = same_start[offset : offset + batch]
            yield chunk, _run_batch(sam, prefix, [variants[i] for i in chunk], start=start)


def track_variants(sam: Sam, prefix: Prefix, variants: Sequence[Variant], *, progress: Progress, label: str) -> Results:
    """Run variants as `run_variants` does, and report the progress."""
    results = run_variants(sam, prefix, variants)
    return progress.track(results, label=label, total=len(variants), steps=lambda result: len(result[0]))


def _batch_size(tokens: int, *, prompts: int, in_encoder: bool) -> int:
    decoder = max(1, _MAX_PROMPT_TOKENS // (tokens * prompts))
    return min(decoder, max(1, _MAX_TOKENS // tokens)) if in_encoder else decoder


def _widest_outputs(sam: Sam, block_paths: Sequence[str]) -> list[int]:
    """Elements of the widest output of a unit with a weight, in each block of the encoder; 1 in one without units."""
    widths = [1] * len(block_paths)
    for unit in sam.costs().units:
        block = _find_block(unit.name, block_paths)
        if block < len(block_paths) and unit.parameters:
            # Multiply-adds are outputs × elements of a channel's weight.
            widths[block] = max(widths[block], unit.multiply_adds * unit.channels // unit.parameters)
    return widths


def _find_block(path: str, block_paths: Sequence[str]) -> int:
    """The encoder's block with a module; len(block_paths) is the decoder."""
    blocks = (i for i, block_path in enumerate(block_paths) if f"{path}.".startswith(f"{block_path}."))
    return next(blocks, len(block_paths))


def _first_block(variant: Variant, block_paths: Sequence[str]) -> int:
    """The first block of the encoder that a variant changes; len(block_paths) is the decoder."""
    return min(_find_block(path, block_paths) for path in variant.changes)


def _run_batch(sam: Sam, prefix: Prefix, variants: Sequence[Variant], *, start: int) -> Tensor:
    with _apply_changes(sam, variants):
        maps = _encode_batch(sam, prefix, start=start, count=len(variants))
        logits, _ = decode_batch(sam, maps, prefix.prompts)
    return visible(logits, prefix.frame)


def _encode_batch(sam: Sam, prefix: Prefix, *, start: int, count: int) -> Maps:
    """Compute the maps of `count` variants of one image, from the first block that one of them changes."""
    chain = chain_of(sam, "encoder")
    if start == len(chain.calls):
        return {name: _repeat(tensor, count) for name, tensor in prefix.maps.items()}
    if not chain.runs_through(start):
        # The code between the blocks has to run, too.
        values = {value: _repeat(tensor, count) for value, tensor in prefix.values.items()}
        with skipped(sam.model, chain.calls[:start], values):
            return sam.family.encode(sam.model, _repeat(prefix.frame.pixels, count))
    values = {value: _repeat(prefix.values[value], count) for value in chain.live(start)}
    for call in chain.calls[start:]:
        values |= call.run(sam.model, values)
    maps = output_maps(chain, values)
    if any(len(tensor) != count for tensor in maps.values()):
        raise ModelError(f"The family {sam.family.name!r} has blocks that mix images along the first axis.")
    return maps


def _repeat(tensor: Tensor, count: int) -> Tensor:
    """Repeat one image's values for each variant; tensors without an image axis stay unchanged."""
    return tensor.expand(count, *tensor.shape[1:]) if tensor.shape[:1] == (1,) else tensor


@contextmanager
def _apply_changes(sam: Sam, variants: Sequence[Variant]) -> Iterator[None]:
    """Within this block, apply each variant's changes to its share of the batch axis."""
    by_path: dict[str, list[tuple[int, Change]]] = {}
    for index, variant in enumerate(variants):
        for path, change in variant.changes.items():
            by_path.setdefault(path, []).append((index, change))
    with altered(
        sam.model, {path: _combine_changes(changes, shares=len(variants)) for path, changes in by_path.items()}
    ):
        yield


def _combine_changes(changes: Sequence[tuple[int, Change]], *, shares: int) -> Alteration:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # An identity returns its input, which other modules may still read.
        output = output.clone() if output is inputs[0] else output
        for index, change in changes:
            variant_inputs = tuple(_share(value, index, shares) for value in inputs)
            variant_output = _share(output, index, shares)
            variant_output.copy_(change(module, variant_inputs, variant_output))
        return output

    return hook


def _share(tensor: Tensor, index: int, shares: int) -> Tensor:
    """The part of the first axis that belongs to one variant (windows, heads and prompts lie within it)."""
    size = tensor.shape[0] // shares
    return tensor[index * size : (index + 1) * size]
