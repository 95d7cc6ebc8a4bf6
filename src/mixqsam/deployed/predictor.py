"""The predictor over an exported model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from mixqsam.arguments import check_prompts
from mixqsam.deployed.backends import find_backend
from mixqsam.deployed.image import Preprocessing
from mixqsam.deployed.names import DECODER, EMBEDDING, ENCODER, PADDING
from mixqsam.deployed.sessions import Session
from mixqsam.drawing import Canvas
from mixqsam.errors import ArtifactError, InputError
from mixqsam.prediction import MASK_THRESHOLD, Candidates, Floats, Prediction, Predictor
from mixqsam.prompts import Prompts

# Prompts decoded at once: each holds a copy of the image's map, and maps up to this size stay in the processor's cache.
_MOST_PROMPTS, _MAP_BYTES = 32, 16 << 20
# What is asked of the decoder. Its third output are all masks at the image's size: here only those that are wanted are
# drawn.
_SCORES, _LOGITS = "iou_predictions", "low_res_masks"


@dataclass(frozen=True)
class _Agreed:
    """What the encoder's file says of the decoder.

    Attributes:
        maps: names of the encoder's outputs that the decoder takes.
        padding: points labelled −1 that it wants: see `PADDING`.
        single: it gives one mask for each prompt.
    """

    maps: tuple[str, ...]
    padding: Mapping[str, int]
    single: bool


class ExportedPredictor(Predictor):
    """A predictor over the two files that `mixqsam export` wrote.

    Args:
        directory: where they are.
        backend: `onnx` or `openvino`.
        threads: None for all cores.
        precision: of what is not integer in OpenVINO's encoder; see `OpenvinoSession`.

    Raises:
        ArtifactError: the files are missing, cannot be loaded, or are not from `mixqsam export`.
        InputError: the runtime is not installed.
    """

    def __init__(
        self, directory: Path | str, *, backend: str, threads: int | None = None, precision: str | None = None
    ) -> None:
        directory, runtime = Path(directory), find_backend(backend)
        self._encoder = runtime.load(directory, ENCODER, threads=threads, precision=precision)
        # Coordinates of prompts need more digits than bfloat16 has.
        self._decoder = runtime.load(directory, DECODER, threads=threads, precision="f32", outputs=(_SCORES, _LOGITS))
        self.preprocessing, self._agreed = _settings(self._encoder, directory)
        self._original: tuple[int, int] | None = None
        self._maps: Mapping[str, Floats] | None = None

    @property
    def frame_side(self) -> int:
        """Side of the square that the encoder takes, in pixels."""
        return self.preprocessing.size

    @property
    def resized_side(self) -> int:
        """What the longer side of an image becomes within the frame, in pixels."""
        return self.preprocessing.longest_side

    @property
    def resample(self) -> int:
        """Pillow's number of the filter that images are scaled with."""
        return self.preprocessing.resample

    @property
    def stretches(self) -> bool:
        """Whether both sides of an image become the frame's; otherwise the longer one does."""
        return self.preprocessing.stretches

    @property
    def original_size(self) -> tuple[int, int] | None:
        """Height and width of the image; None where none is set."""
        return self._original

    @property
    def features(self) -> Any:
        """The image's embedding [1, C, h, w], as a tensor; None where no image is set."""
        import torch  # noqa: PLC0415  (exported models run without it)

        return None if self._maps is None else torch.from_numpy(self._maps[EMBEDDING])

    def encode_image(self, image: Image.Image) -> None:
        """Encode an RGB image."""
        self._encode(self.preprocessing.frame(image), original=(image.height, image.width))

    def encode_resized(self, pixels: Floats, *, original: tuple[int, int]) -> None:
        """Encode pixels [height, width, 3] of 0 to 255 that are as large as the frame already."""
        self._encode(self.preprocessing.frame_of_resized(pixels), original=original)

    def _encode(self, frame: Floats, *, original: tuple[int, int]) -> None:
        name = "input_image" if self.preprocessing.raw else "x"
        found = self._encoder.run({name: frame})
        self._maps = {name: found[name] for name in self._agreed.maps}
        self._original = original

    def reset_image(self) -> None:
        """Forget the image."""
        self._original = self._maps = None

    def keep(self) -> object:
        """The image's size and maps."""
        return None if self._original is None or self._maps is None else (self._original, self._maps)

    def restore(self, kept: object) -> None:
        """Take back what `keep` gave."""
        self._original, self._maps = cast("tuple[tuple[int, int], Mapping[str, Floats]]", kept or (None, None))

    def segment(self, prompts: Prompts, *, multimask: bool = False, full: bool = False) -> Prediction:
        """Masks for prompts in the image's pixels; see `Predictor.segment`.

        Raises:
            InputError: as there, or three masks are wanted of a decoder that was exported to give one.
        """
        logits, scores, canvas = self._decode(prompts, multimask=multimask)
        shape, flat = logits.shape[:2], logits.reshape(-1, *logits.shape[2:])
        drawn = canvas.draw(flat) if full else None
        masks = canvas.cut(flat, MASK_THRESHOLD) if drawn is None else drawn > MASK_THRESHOLD
        sized = (*shape, *canvas.original)
        kept = None if drawn is None else drawn.reshape(sized)
        return Prediction(masks.reshape(sized), scores, logits, self._visible(canvas), kept)

    def propose(self, prompts: Prompts) -> Candidates:
        """Three masks for each prompt, none of them drawn; see `Predictor.propose`.

        Raises:
            InputError: as there, or the decoder was exported to give one mask.
        """
        logits, scores, canvas = self._decode(prompts, multimask=True)
        visible = self._visible(canvas)
        return Candidates(scores, logits, visible, lambda chosen: canvas.cut(logits[chosen], MASK_THRESHOLD))

    def _decode(self, prompts: Prompts, *, multimask: bool) -> tuple[Floats, Floats, Canvas]:
        """Low-resolution logits [P, M, 4h, 4w] and scores [P, M] of prompts, and what draws the logits."""
        check_prompts(prompts, mask_side=None if self._maps is None else 4 * self._maps[EMBEDDING].shape[-1])
        assert self._maps is not None  # noqa: S101
        if multimask and self._agreed.single:
            raise InputError("This decoder was exported with --single-mask; export it again without for three masks.")
        which = slice(None) if self._agreed.single else slice(1, None) if multimask else slice(0, 1)
        scores, logits = [], []
        # A mask to start from is part of the image's map, so such prompts go one by one.
        at_once = max(1, min(_MOST_PROMPTS, _MAP_BYTES // self._maps[EMBEDDING].nbytes))
        at_once = at_once if prompts.masks is None else 1
        for start in range(0, len(prompts), at_once):
            some = prompts.take(np.arange(start, min(start + at_once, len(prompts))))
            found = self._decoder.run(self._inputs(some))
            scores.append(found[_SCORES][:, which])
            logits.append(found[_LOGITS][:, which])
        low = np.concatenate(logits)
        return low, np.concatenate(scores), self._canvas(low.shape[-1])

    def _canvas(self, low: int) -> Canvas:
        assert self._original is not None  # noqa: S101
        settings = self.preprocessing
        return Canvas(low, settings.size, settings.visible(self._original), self._original, settings.stretches)

    @staticmethod
    def _visible(canvas: Canvas) -> tuple[int, int]:
        """Height and width of the part of the logits that shows the image."""
        height, width = (max(1, round(side * canvas.low / canvas.frame)) for side in canvas.resized)
        return height, width

    def _inputs(self, prompts: Prompts) -> dict[str, Floats]:
        """The decoder's inputs: corners of boxes are points labelled 2 and 3, and −1 is a point that fills up."""
        assert self._original is not None  # noqa: S101
        assert self._maps is not None  # noqa: S101
        resized = self.preprocessing.visible(self._original)
        factors = np.array([resized[1] / self._original[1], resized[0] / self._original[0]])
        count, side = len(prompts), 4 * self._maps[EMBEDDING].shape[-1]
        points, labels = [np.zeros((count, 0, 2))], [np.zeros((count, 0))]
        if prompts.points is not None and prompts.labels is not None:
            points.append(prompts.points * factors)
            labels.append(prompts.labels.astype(np.float64))
        if prompts.boxes is not None:
            points.append(prompts.boxes.reshape(count, 2, 2) * factors)
            labels.append(np.tile([2.0, 3.0], (count, 1)))
        kind = "boxes" if prompts.boxes is not None else "points" if prompts.points is not None else "masks"
        points.append(np.zeros((count, self._agreed.padding[kind], 2)))
        labels.append(-np.ones((count, self._agreed.padding[kind])))
        masks = prompts.masks if prompts.masks is not None else np.zeros((1, 1, side, side))
        values: dict[str, Any] = {
            **self._maps,
            "point_coords": np.concatenate(points, axis=1),
            "point_labels": np.concatenate(labels, axis=1),
            "mask_input": masks,
            "has_mask_input": [float(prompts.masks is not None)],
            # Of the masks that are not asked for; where they are computed nevertheless, they are small.
            "orig_im_size": (1, 1),
        }
        return {name: np.asarray(value, dtype=np.float32) for name, value in values.items()}


def _settings(encoder: Session, directory: Path) -> tuple[Preprocessing, _Agreed]:
    try:
        values = json.loads(encoder.metadata)
        mean, std = (tuple(float(v) for v in values[name]) for name in ("image_mean", "image_std"))
        side = int(values["image_size"])
        preprocessing = Preprocessing(
            side,
            mean,
            std,
            bool(values["raw_image"]),
            # Older files do not say what was always so.
            longest=int(values.get("longest_side", side)),
            resample=int(values.get("resample", Image.Resampling.BILINEAR)),
            factor=float(values.get("rescale_factor", 1 / 255)),
            stretches=bool(values.get("stretches", False)),
        )
        padding = {kind: int(values.get("padding", PADDING)[kind]) for kind in PADDING}
        return preprocessing, _Agreed(tuple(values.get("maps", [EMBEDDING])), padding, bool(values["single"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"The encoder in {directory} does not say how it was made; export it with mixqsam."
        ) from error
