"""Encode once, prompt often."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mixqsam.errors import InputError
from mixqsam.files import write_bytes
from mixqsam.prediction import MASK_THRESHOLD, Floats, Prediction, Predictor
from mixqsam.prompts import Prompts
from mixqsam.sam.forward import Frame, decode, encode, full_logits, make_frame, prompt_tensors, visible
from mixqsam.sam.load import Sam

# Masks are made from logits some at a time: 16 masks of a 12-megapixel photograph take 0.8 GB as floats.
_MASKS_AT_ONCE = 16


class SamPredictor(Predictor):
    """A predictor over a PyTorch model, float or quantized.

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

    def segment(self, prompts: Prompts, *, multimask: bool = False) -> Prediction:
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
        pieces = [full_logits(self.sam, part, self._frame) > MASK_THRESHOLD for part in logits.split(_MASKS_AT_ONCE)]
        height, width = visible(self.sam, logits, self._frame).shape[-2:]
        return Prediction(torch.cat(pieces).cpu().numpy(), scores.cpu().numpy(), logits.cpu().numpy(), (height, width))

    def full_logits(self, logits: Floats) -> Floats:
        """Low-resolution logits [P, M, 4h, 4w] → logits [P, M, height, width] of the image."""
        if self._frame is None:
            raise InputError("No image has been set; call set_image first.")
        full: Floats = full_logits(self.sam, torch.from_numpy(logits), self._frame).numpy()
        return full
