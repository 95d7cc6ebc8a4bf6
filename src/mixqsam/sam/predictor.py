"""Encode once, prompt often."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mixqsam.errors import InputError
from mixqsam.files import write_bytes
from mixqsam.prompts import Prompts
from mixqsam.sam.forward import Frame, decode, encode, make_frame, masks_from_logits, prompt_tensors, visible
from mixqsam.sam.load import Sam

# Masks are made from logits some at a time: 16 masks of a 12-megapixel photograph take 0.8 GB as floats.
_MASKS_AT_ONCE = 16


@dataclass(frozen=True)
class Prediction:
    """Masks of one image.

    Attributes:
        masks: [P, M, height, width], of the original image.
        scores: [P, M], the IoU that the model predicts for its own mask.
        logits: [P, M, 4h, 4w], low resolution, padding included.
        visible: height and width of the part of `logits` that shows the image.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    visible: tuple[int, int]

    def best(self) -> "Prediction":
        """Of each prompt's masks the one with the highest predicted IoU: M becomes 1."""
        rows, best = np.arange(len(self.scores)), self.scores.argmax(axis=1)
        masks, scores, logits = (one[rows, best][:, None] for one in (self.masks, self.scores, self.logits))
        return Prediction(masks, scores, logits, self.visible)


class Predictor(Protocol):
    """What evaluation, pages and users need of a model, whatever runs it."""

    def set_image(self, image: Image.Image | NDArray[np.uint8]) -> None:
        """Encode an image; later prompts are about it."""
        ...

    def predict(self, prompts: Prompts, *, multimask: bool = False) -> Prediction:
        """Masks for prompts in the image's pixels."""
        ...


class SamPredictor:
    """A Predictor over a PyTorch model, float or quantized.

    Args:
        sam: the model.
        embeddings: a folder that image embeddings are kept in; None to compute each anew.
    """

    def __init__(self, sam: Sam, *, embeddings: Path | None = None) -> None:
        self.sam = sam
        self._embeddings = embeddings
        self._frame: Frame | None = None
        self._embedding: Tensor | None = None

    def set_image(self, image: Image.Image | NDArray[np.uint8]) -> None:
        """Encode an RGB image (Pillow, or uint8 [height, width, 3])."""
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        image = image.convert("RGB")
        self._frame = make_frame(self.sam, image)
        self._embedding = self._kept_embedding(image, self._frame)

    def _kept_embedding(self, image: Image.Image, frame: Frame) -> Tensor:
        if self._embeddings is None:
            return encode(self.sam, frame)
        content = hashlib.sha256(f"{self.sam.fingerprint} {image.size} ".encode() + image.tobytes()).hexdigest()
        path = self._embeddings / f"{content}.safetensors"
        try:
            return load_file(path, device=str(self.sam.device))["embedding"]
        except (OSError, SafetensorError, KeyError):
            embedding = encode(self.sam, frame)
            write_bytes(path, save({"embedding": embedding.cpu().contiguous()}))
            return embedding

    def predict(self, prompts: Prompts, *, multimask: bool = False) -> Prediction:
        """Masks for prompts in the image's pixels.

        Raises:
            InputError: no image has been set, or there are no prompts.
        """
        if self._frame is None or self._embedding is None:
            raise InputError("No image has been set; call set_image first.")
        if not len(prompts):
            raise InputError("There are no prompts; give at least one box or point.")
        tensors = prompt_tensors(self.sam, prompts, self._frame)
        logits, scores = decode(self.sam, self._embedding, tensors, multimask=multimask)
        pieces = [masks_from_logits(self.sam, part, self._frame) for part in logits.split(_MASKS_AT_ONCE)]
        height, width = visible(self.sam, logits, self._frame).shape[-2:]
        return Prediction(torch.cat(pieces).cpu().numpy(), scores.cpu().numpy(), logits.cpu().numpy(), (height, width))
