"""The steps of a model: image → frame → embedding; embedding + prompts → logits; logits → masks."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mixqsam.families.family import Maps, PromptTensors
from mixqsam.numeric.memory import aligned
from mixqsam.prompts import Prompts
from mixqsam.sam.load import Sam

# Prompts decoded at once, so that memory does not grow with the boxes of an image.
_PROMPTS_AT_ONCE = 64
# Each of them holds a copy of the image's map; this number of bytes stays in the processor's cache.
_CACHED_BYTES = 16 << 20


@dataclass(frozen=True)
class Frame:
    """An image as the encoder takes it.

    Attributes:
        pixels: [1, 3, S, S], normalised.
        original: height and width of the image.
        resized: height and width within the frame, at its top left.
        is_stretched: both sides of the image are the frame's.
    """

    pixels: Tensor
    original: tuple[int, int]
    resized: tuple[int, int]
    is_stretched: bool = False


def make_frame(sam: Sam, image: Image.Image) -> Frame:
    """Resize and normalise an RGB image, as the family does it."""
    framing = sam.family.framing
    pixels, resized = framing.apply(sam.processor, image)
    return Frame(aligned(pixels.to(sam.device)), (image.height, image.width), resized, framing.stretches)


def frame_of_resized(sam: Sam, pixels: np.ndarray, *, original: tuple[int, int]) -> Frame:
    """Normalise pixels [height, width, 3] of 0 to 255 that are as large as the frame already."""
    framing = sam.family.framing
    framed, resized = framing.apply_resized(sam.processor, pixels)
    return Frame(aligned(framed.to(sam.device)), original, resized, framing.stretches)


def prompt_tensors(sam: Sam, prompts: Prompts, frame: Frame) -> PromptTensors:
    """Scale prompts from the image's pixels to the frame's."""
    factors = np.array([frame.resized[1] / frame.original[1], frame.resized[0] / frame.original[0]])

    def tensor(values: np.ndarray | None) -> Tensor | None:
        return None if values is None else torch.tensor(values, dtype=torch.float32, device=sam.device)[None]

    boxes = None if prompts.boxes is None else prompts.boxes * np.tile(factors, 2)
    points = None if prompts.points is None else prompts.points * factors
    labels = None if prompts.labels is None else torch.tensor(prompts.labels, device=sam.device)[None]
    return PromptTensors(tensor(boxes), tensor(points), labels, tensor(prompts.masks))


@torch.no_grad()
def encode(sam: Sam, frame: Frame) -> Maps:
    """The maps that the decoder takes; of one map the name is `embedding`, [1, C, h, w]."""
    return sam.family.encode(sam.model, frame.pixels)


@torch.no_grad()
def embed_prompts(sam: Sam, prompts: PromptTensors) -> Maps:
    """What the decoder takes of P prompts."""
    return sam.family.embed(sam.model, prompts)


@torch.no_grad()
def decode_batch(sam: Sam, maps: Maps, prompts: Maps, *, multimask: bool = False) -> tuple[Tensor, Tensor]:
    """Decode N images' maps with the same P prompts.

    Args:
        sam: the model.
        maps: what the encoder gave, N images along the first axis.
        prompts: what `embed_prompts` gave.
        multimask: three masks for each prompt instead of one.

    Returns:
        logits [N, P, M, 4h, 4w] and predicted IoU [N, P, M].
    """
    return sam.family.decode(sam.model, maps, prompts, multimask=multimask)


def decode(
    sam: Sam, maps: Maps, prompts: PromptTensors, *, multimask: bool = False, at_once: int = _PROMPTS_AT_ONCE
) -> tuple[Tensor, Tensor]:
    """Decode all prompts of one image, some at a time: logits [P, M, 4h, 4w] and predicted IoU [P, M]."""
    logits, scores = [], []
    # A mask to start from is part of the image's embedding, so such prompts go one by one.
    count = at_once if prompts.masks is None else 1
    for start in range(0, len(prompts), count):
        embedded = embed_prompts(sam, prompts.piece(start, start + count))
        some_logits, some_scores = decode_batch(sam, maps, embedded, multimask=multimask)
        logits.append(some_logits[0])
        scores.append(some_scores[0])
    return torch.cat(logits), torch.cat(scores)


def fastest_batch(maps: Maps) -> int:
    """How many of many prompts to decode at once for an image with these maps."""
    embedding = maps["embedding"]
    if embedding.device.type != "cpu":
        return _PROMPTS_AT_ONCE
    return max(1, min(_PROMPTS_AT_ONCE, _CACHED_BYTES // (embedding.numel() * embedding.element_size())))


def visible(logits: Tensor, frame: Frame) -> Tensor:
    """The part of low-resolution logits [..., 4h, 4w] that shows the image and not the padding."""
    scale = logits.shape[-1] / frame.pixels.shape[-1]
    height, width = (max(1, round(side * scale)) for side in frame.resized)
    return logits[..., :height, :width]


def full_logits(logits: Tensor, frame: Frame) -> Tensor:
    """Logits [P, M, height, width] of the original image: upsample to the frame, cut, resize.

    A stretched frame has nothing to cut, and is resized at once, as SAM 2 does.
    """
    if frame.is_stretched:
        return functional.interpolate(logits.float(), frame.original, mode="bilinear", align_corners=False)
    size = frame.pixels.shape[-1]
    full = functional.interpolate(logits.float(), (size, size), mode="bilinear", align_corners=False)
    full = full[..., : frame.resized[0], : frame.resized[1]]
    return functional.interpolate(full, frame.original, mode="bilinear", align_corners=False)
