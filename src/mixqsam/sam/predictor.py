"""Encode once, prompt often."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mixqsam.arguments import check_prompts
from mixqsam.drawing import Canvas
from mixqsam.families.family import Maps
from mixqsam.files import write_bytes
from mixqsam.numeric.memory import aligned
from mixqsam.prediction import MASK_THRESHOLD, Candidates, Floats, Prediction, Predictor
from mixqsam.prompts import Prompts
from mixqsam.sam.forward import (
    Frame,
    decode,
    encode,
    fastest_batch,
    frame_of_resized,
    full_logits,
    make_frame,
    prompt_tensors,
    visible,
)
from mixqsam.sam.load import Sam

# A GPU makes masks from logits some at a time: 16 masks of a 12-megapixel photograph take 0.8 GB as floats.
_MASKS_AT_ONCE = 16


class SamPredictor(Predictor):
    """A predictor over a PyTorch model, float or quantized.

    Args:
        sam: the model.
        embeddings: a folder that image embeddings are kept in; None to compute each again.
    """

    def __init__(self, sam: Sam, *, embeddings: Path | None = None) -> None:
        self.sam = sam
        self.embeddings = embeddings
        self._frame: Frame | None = None
        self._maps: Maps | None = None

    @property
    def frame_side(self) -> int:
        """Side of the square that the encoder takes, in pixels."""
        return self.sam.image_size

    @property
    def resized_side(self) -> int:
        """What the longer side of an image becomes within the frame, in pixels."""
        return self.sam.pixel_settings.longest

    @property
    def resample(self) -> int:
        """Pillow's number of the filter that images are scaled with."""
        return self.sam.pixel_settings.resample

    @property
    def stretches(self) -> bool:
        """Whether both sides of an image become the frame's; otherwise the longer one does."""
        return self.sam.family.framing.stretches

    @property
    def original_size(self) -> tuple[int, int] | None:
        """Height and width of the image; None where none is set."""
        return None if self._frame is None else self._frame.original

    @property
    def features(self) -> Tensor | None:
        """The image's embedding [1, C, h, w]; None where no image is set."""
        return None if self._maps is None else self._maps["embedding"]

    def encode_image(self, image: Image.Image) -> None:
        """Encode an RGB image."""
        frame = make_frame(self.sam, image)
        self._maps = self._kept_maps(image, frame)
        self._frame = frame

    def encode_resized(self, pixels: Floats, *, original: tuple[int, int]) -> None:
        """Encode pixels [height, width, 3] of 0 to 255 that are as large as the frame already."""
        frame = frame_of_resized(self.sam, pixels, original=original)
        self._maps = encode(self.sam, frame)
        self._frame = frame

    def _kept_maps(self, image: Image.Image, frame: Frame) -> Maps:
        if self.embeddings is None:
            return encode(self.sam, frame)
        content = hashlib.sha256(f"{self.sam.fingerprint} {image.size} ".encode() + image.tobytes()).hexdigest()
        path = self.embeddings / f"{content}.safetensors"
        try:
            stored = load_file(path, device=str(self.sam.device))
            return {name: aligned(tensor) for name, tensor in stored.items()}
        except (OSError, SafetensorError):
            maps = encode(self.sam, frame)
            write_bytes(path, save({name: tensor.cpu().contiguous() for name, tensor in maps.items()}))
            return maps

    def reset_image(self) -> None:
        """Forget the image."""
        self._frame = self._maps = None

    def keep(self) -> object:
        """The image's frame and embedding."""
        return None if self._frame is None or self._maps is None else (self._frame, self._maps)

    def restore(self, kept: object) -> None:
        """Take back what `keep` gave."""
        self._frame, self._maps = cast("tuple[Frame, Maps]", kept or (None, None))

    def segment(self, prompts: Prompts, *, multimask: bool = False, full: bool = False) -> Prediction:
        """Masks for prompts in the image's pixels; see `Predictor.segment`."""
        frame, maps = self._check(prompts)
        logits, scores = decode(self.sam, maps, prompt_tensors(self.sam, prompts, frame), multimask=multimask)
        flat, size = logits.flatten(0, 1), (*logits.shape[:2], *frame.original)
        drawn = _draw(flat, frame) if full else None
        masks = _cut(flat, frame) if drawn is None else drawn > MASK_THRESHOLD
        return Prediction(
            masks.reshape(size),
            scores.cpu().numpy(),
            logits.cpu().numpy(),
            _visible_size(logits, frame),
            None if drawn is None else drawn.reshape(size),
        )

    def propose(self, prompts: Prompts) -> Candidates:
        """Three masks for each prompt, none of them drawn; see `Predictor.propose`."""
        frame, maps = self._check(prompts)
        tensors = prompt_tensors(self.sam, prompts, frame)
        logits, scores = decode(self.sam, maps, tensors, multimask=True, at_once=fastest_batch(maps))
        return Candidates(
            scores.cpu().numpy(),
            logits.cpu().numpy(),
            _visible_size(logits, frame),
            lambda chosen: _cut(logits[torch.from_numpy(chosen)], frame),
        )

    def _check(self, prompts: Prompts) -> tuple[Frame, Maps]:
        """The image's frame and maps, for prompts that can be used."""
        check_prompts(prompts, mask_side=None if self.features is None else 4 * self.features.shape[-1])
        assert self._frame is not None  # noqa: S101
        assert self._maps is not None  # noqa: S101
        return self._frame, self._maps


def _visible_size(logits: Tensor, frame: Frame) -> tuple[int, int]:
    height, width = visible(logits, frame).shape[-2:]
    return height, width


def _draw(logits: Tensor, frame: Frame) -> Floats:
    """Low-resolution logits [n, 4h, 4w] at the size of the original image."""
    if logits.device.type == "cpu":
        return _canvas(logits, frame).draw(logits.float().numpy())
    return np.concatenate([full.cpu().numpy() for full in _drawn_by_device(logits, frame)])


def _cut(logits: Tensor, frame: Frame) -> NDArray[np.bool_]:
    """The masks of low-resolution logits [n, 4h, 4w] at the size of the original image."""
    if logits.device.type == "cpu":
        return _canvas(logits, frame).cut(logits.float().numpy(), MASK_THRESHOLD)
    return np.concatenate([(full > MASK_THRESHOLD).cpu().numpy() for full in _drawn_by_device(logits, frame)])


def _canvas(logits: Tensor, frame: Frame) -> Canvas:
    return Canvas(logits.shape[-1], frame.pixels.shape[-1], frame.resized, frame.original, frame.is_stretched)


def _drawn_by_device(logits: Tensor, frame: Frame) -> Iterator[Tensor]:
    for some in logits.split(_MASKS_AT_ONCE):
        yield full_logits(some[:, None], frame)[:, 0]
