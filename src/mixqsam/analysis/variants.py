"""Run many small changes of a model on one image, each from where it begins.

What flows between the encoder's blocks is kept. A change in block k runs blocks k, … and the decoder only; a change in
the decoder runs the decoder only. Changes that begin at the same place run as one batch: each owns its share of the
batch axis, and hooks alter only that share.
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

# What a variant makes of a module's output; it sees its own share of the batch only.
Change = Alteration

# Indices of some variants, and their logits [len(indices), P, M, h, w].
Results = Iterator[tuple[list[int], Tensor]]

# Tokens of a batch of variants, prompt-token pairs of a batch of decoders, and elements of the widest output of any
# unit (256 MB): they bound the memory.
_TOKENS = 1 << 14
_PROMPT_TOKENS = 1 << 16
_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class Variant:
    """A model with some modules changed.

    Attributes:
        changes: dotted path of a module → what becomes of its output.
    """

    changes: Mapping[str, Change]


@dataclass(frozen=True)
class Prefix:
    """What the unchanged model computed on one image.

    Attributes:
        frame: the image.
        values: what flows between the encoder's blocks, each [1, …].
        maps: what the encoder gives.
        prompts: as the decoder takes them.
        logits: the unchanged output, cut to the image: [P, M, h, w].
    """

    frame: Frame
    values: State
    maps: Maps
    prompts: Maps
    logits: Tensor


@torch.no_grad()
def run_prefix(sam: Sam, sample: Sample) -> Prefix:
    """One plain pass over a sample, keeping what variants start from."""
    frame = make_frame(sam, sample.open())
    values, maps = record(sam.model, chain_of(sam, "encoder"), lambda: encode(sam, frame))
    prompts = embed_prompts(sam, prompt_tensors(sam, sample.prompts, frame))
    logits, _ = decode_batch(sam, maps, prompts)
    return Prefix(frame, values, maps, prompts, visible(logits[0], frame))


@torch.no_grad()
def run_variants(sam: Sam, prefix: Prefix, variants: Sequence[Variant]) -> Results:
    """Run variants on a prefix, a batch at a time.

    Yields:
        indices into `variants`, and their logits [len(indices), P, M, h, w], cut to the image. Each variant comes
        up once; the order is the runner's choice.
    """
    places = [call.path for call in chain_of(sam, "encoder").calls]
    starts = [_start(variant, places) for variant in variants]
    tokens = max(tensor.shape[-2] * tensor.shape[-1] for tensor in prefix.maps.values())
    widths = _widths(sam, places)
    for start in sorted(set(starts)):
        here = [index for index, place in enumerate(starts) if place == start]
        in_encoder = start < len(places)
        batch = _batch_size(tokens, prompts=len(prefix.logits), in_encoder=in_encoder)
        batch = min(batch, max(1, _ELEMENTS // max(widths[start:], default=1)))
        for first in range(0, len(here), batch):
            some = here[first : first + batch]
            yield some, _run_batch(sam, prefix, [variants[i] for i in some], start=start)


def tracked(sam: Sam, prefix: Prefix, variants: Sequence[Variant], *, progress: Progress, label: str) -> Results:
    """`run_variants`, with its steps told to whoever listens."""
    results = run_variants(sam, prefix, variants)
    return progress.track(results, label=label, total=len(variants), steps=lambda found: len(found[0]))


def _batch_size(tokens: int, *, prompts: int, in_encoder: bool) -> int:
    decoder = max(1, _PROMPT_TOKENS // (tokens * prompts))
    return min(decoder, max(1, _TOKENS // tokens)) if in_encoder else decoder


def _widths(sam: Sam, places: Sequence[str]) -> list[int]:
    """Elements of the widest output of a unit with a weight, in each block of the encoder; 1 in one without units."""
    widths = [1] * len(places)
    for unit in sam.costs().units:
        place = _place(unit.name, places)
        if place < len(places) and unit.parameters:
            # Multiply-adds are outputs × elements of a channel's weight.
            widths[place] = max(widths[place], unit.multiply_adds * unit.channels // unit.parameters)
    return widths


def _place(path: str, places: Sequence[str]) -> int:
    """The block of the encoder that a module lies in; len(places) is the decoder."""
    return next((i for i, place in enumerate(places) if f"{path}.".startswith(f"{place}.")), len(places))


def _start(variant: Variant, places: Sequence[str]) -> int:
    """The first block of the encoder that a variant changes; len(places) is the decoder."""
    return min(_place(path, places) for path in variant.changes)


def _run_batch(sam: Sam, prefix: Prefix, variants: Sequence[Variant], *, start: int) -> Tensor:
    with _changed(sam, variants):
        maps = _encode_batch(sam, prefix, start=start, count=len(variants))
        logits, _ = decode_batch(sam, maps, prefix.prompts)
    return visible(logits, prefix.frame)


def _encode_batch(sam: Sam, prefix: Prefix, *, start: int, count: int) -> Maps:
    """The maps of so many variants of one image, from the first block that one of them changes."""
    chain = chain_of(sam, "encoder")
    if start == len(chain.calls):
        return {name: _repeat(tensor, count) for name, tensor in prefix.maps.items()}
    if not chain.runs_through(start):
        # Code between the blocks has to run too.
        values = {value: _repeat(tensor, count) for value, tensor in prefix.values.items()}
        with skipped(sam.model, chain.calls[:start], values):
            return sam.family.encode(sam.model, _repeat(prefix.frame.pixels, count))
    values = {value: _repeat(prefix.values[value], count) for value in chain.live(start)}
    for call in chain.calls[start:]:
        values |= call.run(sam.model, values)
    maps = output_maps(chain, values)
    if any(len(tensor) != count for tensor in maps.values()):
        raise ModelError(f"The family {sam.family.name!r} has blocks that do not keep images apart on the first axis.")
    return maps


def _repeat(tensor: Tensor, count: int) -> Tensor:
    """One image's values for each variant; what has no axis of images stays as it is."""
    return tensor.expand(count, *tensor.shape[1:]) if tensor.shape[:1] == (1,) else tensor


@contextmanager
def _changed(sam: Sam, variants: Sequence[Variant]) -> Iterator[None]:
    """While this is open, each variant's changes act on its share of the batch axis."""
    by_path: dict[str, list[tuple[int, Change]]] = {}
    for index, variant in enumerate(variants):
        for path, change in variant.changes.items():
            by_path.setdefault(path, []).append((index, change))
    with altered(sam.model, {path: _alter(changes, shares=len(variants)) for path, changes in by_path.items()}):
        yield


def _alter(changes: Sequence[tuple[int, Change]], *, shares: int) -> Alteration:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # An identity's output is its input, which others may hold.
        output = output.clone() if output is inputs[0] else output
        for index, change in changes:
            own_inputs = tuple(_share(value, index, shares) for value in inputs)
            own_output = _share(output, index, shares)
            own_output.copy_(change(module, own_inputs, own_output))
        return output

    return hook


def _share(tensor: Tensor, index: int, shares: int) -> Tensor:
    """The part of the first axis that belongs to one variant (windows, heads and prompts lie within it)."""
    size = tensor.shape[0] // shares
    return tensor[index * size : (index + 1) * size]
