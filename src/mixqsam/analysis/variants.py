"""Run many small changes of a model on one image, each from where it begins.

The encoder is cut at its block borders and the input of every block is kept. A change in block k runs blocks k, …
and the decoder only; a change in the decoder runs the decoder only. Changes that begin at the same place run as one
batch: each owns its share of the batch axis, and hooks alter only that share.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixqsam.data.samples import Sample
from mixqsam.progress import Progress
from mixqsam.sam.forward import Frame, decode_batch, embed_prompts, make_frame, prompt_tensors, visible
from mixqsam.sam.hooks import Alteration, altered
from mixqsam.sam.load import Sam

# What a variant makes of a module's output; it sees its own share of the batch only.
Change = Alteration

# Indices of some variants, and their logits [len(indices), P, M, h, w].
Results = Iterator[tuple[list[int], Tensor]]

# Tokens of a batch of variants, and prompt-token pairs of a batch of decoders: they bound the memory.
_TOKENS = 1 << 14
_PROMPT_TOKENS = 1 << 16


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
        states: the input of each segment of the encoder, then the embedding; each [1, …].
        sparse, dense: prompt embeddings.
        logits: the unchanged output, cut to the image: [P, M, h, w].
    """

    frame: Frame
    states: tuple[Tensor, ...]
    sparse: Tensor
    dense: Tensor
    logits: Tensor


def segments(sam: Sam) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    """The encoder behind its embedding, cut into pieces: (path of the module, how to run it)."""
    encoder = sam.model.vision_encoder
    pieces = [(f"vision_encoder.layers.{i}", layer) for i, layer in enumerate(encoder.layers)]
    return [*pieces, ("vision_encoder.neck", encoder.neck)]


@torch.no_grad()
def run_prefix(sam: Sam, sample: Sample) -> Prefix:
    """One plain pass over a sample, keeping what variants start from."""
    frame = make_frame(sam, sample.open())
    encoder = sam.model.vision_encoder
    state = encoder.patch_embed(frame.pixels)
    if encoder.pos_embed is not None:
        state = state + encoder.pos_embed
    states = [state]
    for _, run in segments(sam):
        states.append(run(states[-1]))
    sparse, dense = embed_prompts(sam, prompt_tensors(sam, sample.prompts, frame))
    logits, _ = decode_batch(sam, states[-1], sparse=sparse, dense=dense)
    return Prefix(frame, tuple(states), sparse, dense, visible(sam, logits[0], frame))


@torch.no_grad()
def run_variants(sam: Sam, prefix: Prefix, variants: Sequence[Variant]) -> Results:
    """Run variants on a prefix, a batch at a time.

    Yields:
        indices into `variants`, and their logits [len(indices), P, M, h, w], cut to the image. Each variant comes
        up once; the order is the runner's choice.
    """
    places = [path for path, _ in segments(sam)]
    starts = [_start(variant, places) for variant in variants]
    tokens = prefix.states[0].shape[1] * prefix.states[0].shape[2]
    for start in sorted(set(starts)):
        here = [index for index, place in enumerate(starts) if place == start]
        in_encoder = start < len(places)
        batch = _batch_size(tokens, prompts=prefix.sparse.shape[1], in_encoder=in_encoder)
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


def _start(variant: Variant, places: Sequence[str]) -> int:
    """The first segment that a variant changes; len(places) is the decoder."""
    starts = [
        next((i for i, place in enumerate(places) if path.startswith(f"{place}.")), len(places))
        for path in variant.changes
    ]
    return min(starts)


def _run_batch(sam: Sam, prefix: Prefix, variants: Sequence[Variant], *, start: int) -> Tensor:
    state = prefix.states[start]
    state = state.expand(len(variants), *state.shape[1:])
    with _changed(sam, variants):
        for _, run in segments(sam)[start:]:
            state = run(state)
        logits, _ = decode_batch(sam, state, sparse=prefix.sparse, dense=prefix.dense)
    return visible(sam, logits, prefix.frame)


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
