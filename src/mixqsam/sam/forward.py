"""The steps of SAM: image → frame → embedding; embedding + prompts → logits; logits → masks."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mixqsam.prompts import Prompts
from mixqsam.resize import resized_size
from mixqsam.sam.load import Sam

# Prompts decoded at once, so that memory does not grow with the boxes of an image.
_PROMPTS_AT_ONCE = 64


@dataclass(frozen=True)
class Frame:
    """An image as the encoder takes it.

    Attributes:
        pixels: [1, 3, S, S], normalised; the image at the top left, zeros elsewhere.
        original: height and width of the image.
        resized: height and width within the frame.
    """

    pixels: Tensor
    original: tuple[int, int]
    resized: tuple[int, int]


@dataclass(frozen=True)
class PromptTensors:
    """Prompts in the frame's pixels, as transformers' prompt encoder takes them (a batch of one)."""

    boxes: Tensor | None
    points: Tensor | None
    labels: Tensor | None
    masks: Tensor | None = None

    def __len__(self) -> int:
        for tensor in (self.boxes, self.points, self.masks):
            if tensor is not None:
                return tensor.shape[1]
        return 0

    def piece(self, start: int, stop: int) -> "PromptTensors":
        """Prompts start … stop − 1."""
        parts = (self.boxes, self.points, self.labels, self.masks)
        return PromptTensors(*(None if part is None else part[:, start:stop] for part in parts))


def make_frame(sam: Sam, image: Image.Image) -> Frame:
    """Resize, normalise and pad an RGB image."""
    batch = sam.processor(images=_thick_enough(image, sam), return_tensors="pt")
    height, width = (int(v) for v in batch["reshaped_input_sizes"][0])
    return Frame(batch["pixel_values"].to(sam.device), (image.height, image.width), (height, width))


def _thick_enough(image: Image.Image, sam: Sam) -> Image.Image:
    """An image that keeps a pixel of both sides in the frame; what would keep none is resized here."""
    side = sam.config.vision_config.image_size
    if 2 * side * min(image.size) >= max(image.size):
        return image
    height, width = resized_size(image.height, image.width, side=side)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def frame_of_resized(sam: Sam, pixels: np.ndarray, *, original: tuple[int, int]) -> Frame:
    """Normalise and pad pixels [height, width, 3] of 0 to 255 that are as large as the frame already."""
    batch = sam.processor(
        images=np.ascontiguousarray(pixels.transpose(2, 0, 1)),
        input_data_format="channels_first",
        do_resize=False,
        do_convert_rgb=False,
        return_tensors="pt",
    )
    return Frame(batch["pixel_values"].to(sam.device), original, (pixels.shape[0], pixels.shape[1]))


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
def encode(sam: Sam, frame: Frame) -> Tensor:
    """Image embedding [1, C, S/16, S/16]."""
    embedding: Tensor = sam.model.vision_encoder(frame.pixels).last_hidden_state
    return embedding


@torch.no_grad()
def embed_prompts(sam: Sam, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
    """Sparse [1, P, K, C] and dense [1, C, h, w] embeddings of prompts."""
    sparse, dense = sam.model.prompt_encoder(
        input_points=prompts.points,
        input_labels=prompts.labels,
        input_boxes=prompts.boxes,
        input_masks=None if prompts.masks is None else prompts.masks[:, 0],
    )
    if sparse is None:
        # Nothing but a mask to start from.
        sparse = dense.new_zeros((1, len(prompts), 0, dense.shape[1]))
    return sparse, dense


@torch.no_grad()
def decode_batch(
    sam: Sam, embedding: Tensor, *, sparse: Tensor, dense: Tensor, multimask: bool = False
) -> tuple[Tensor, Tensor]:
    """Decode N image embeddings with the same P prompts.

    Args:
        sam: the model.
        embedding: [N, C, h, w].
        sparse: [1, P, K, C].
        dense: [1, C, h, w].
        multimask: three masks for each prompt instead of one.

    Returns:
        logits [N, P, M, 4h, 4w] and predicted IoU [N, P, M].
    """
    count = embedding.shape[0]
    positions = sam.model.get_image_wide_positional_embeddings()
    logits, scores = sam.model.mask_decoder(
        image_embeddings=embedding,
        image_positional_embeddings=positions.repeat(count, 1, 1, 1),
        sparse_prompt_embeddings=sparse.expand(count, -1, -1, -1),
        dense_prompt_embeddings=dense.expand(count, -1, -1, -1),
        multimask_output=multimask,
    )
    return logits, scores


def decode(sam: Sam, embedding: Tensor, prompts: PromptTensors, *, multimask: bool = False) -> tuple[Tensor, Tensor]:
    """Decode all prompts of one image, some at a time: logits [P, M, 4h, 4w] and predicted IoU [P, M]."""
    logits, scores = [], []
    # A mask to start from is part of the image's embedding, so such prompts go one by one.
    count = _PROMPTS_AT_ONCE if prompts.masks is None else 1
    for start in range(0, len(prompts), count):
        sparse, dense = embed_prompts(sam, prompts.piece(start, start + count))
        some_logits, some_scores = decode_batch(sam, embedding, sparse=sparse, dense=dense, multimask=multimask)
        logits.append(some_logits[0])
        scores.append(some_scores[0])
    return torch.cat(logits), torch.cat(scores)


def visible(sam: Sam, logits: Tensor, frame: Frame) -> Tensor:
    """The part of low-resolution logits [..., 4h, 4w] that shows the image and not the padding."""
    scale = logits.shape[-1] / sam.config.vision_config.image_size
    height, width = (max(1, round(side * scale)) for side in frame.resized)
    return logits[..., :height, :width]


def full_logits(sam: Sam, logits: Tensor, frame: Frame) -> Tensor:
    """Logits [P, M, height, width] of the original image: upsample to the frame, cut, resize."""
    size = sam.config.vision_config.image_size
    full = functional.interpolate(logits.float(), (size, size), mode="bilinear", align_corners=False)
    full = full[..., : frame.resized[0], : frame.resized[1]]
    return functional.interpolate(full, frame.original, mode="bilinear", align_corners=False)
