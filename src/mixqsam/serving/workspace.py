"""Models of the page, its images, and what models have encoded. Not thread-safe."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixqsam.errors import InputError
from mixqsam.pipeline.evaluate import float_costs, float_source, stored_costs
from mixqsam.pipeline.explore import Explorer
from mixqsam.pipeline.stages import MARKER, make_predictor
from mixqsam.prediction import Predictor
from mixqsam.prompts import Prompts
from mixqsam.sam.automatic import Automatic, Masks, find_masks
from mixqsam.serving.gallery import Gallery
from mixqsam.serving.limits import Limits
from mixqsam.serving.recent import LruCache


@dataclass(frozen=True)
class Segmentation:
    """Result of one model for one prompt.

    Attributes:
        mask: [height, width].
        predicted_iou: IoU that the model predicts.
        encode_seconds: time to encode the image.
        encoded_now: whether the image was encoded for this prompt.
        prompt_seconds: time to answer the prompt.
    """

    mask: NDArray[np.bool_]
    predicted_iou: float
    encode_seconds: float
    encoded_now: bool
    prompt_seconds: float


@dataclass(frozen=True)
class _Model:
    name: str
    source: str
    about: Mapping[str, Any]


def collect_models(sources: Sequence[str]) -> dict[str, str]:
    """Name the models to serve: the float model of the first quantized one, then the sources.

    Raises:
        ModelError: the float model of a directory is not known.
    """
    quantized = next((source for source in sources if (Path(source) / MARKER).is_file()), None)
    models = {"float": float_source(Path(quantized))} if quantized else {}
    names = [Path(source).resolve().name if Path(source).is_dir() else source for source in sources]
    for name, source in zip(names, sources, strict=True):
        if source not in models.values():
            models[source if names.count(name) > 1 or name in models else name] = source
    return models


class Workspace:
    """Models by name, and what they find in the images of the gallery.

    Args:
        models: name → float model, quantized directory, or exported directory. Each is loaded at its first use.
        samples: images that visitors may choose.
        limits: sizes of the caches.
    """

    def __init__(self, models: Mapping[str, str], samples: Mapping[str, Path], *, limits: Limits) -> None:
        self.limits = limits
        self._models = {name: _Model(name, source, _describe(source, models)) for name, source in models.items()}
        self.gallery = Gallery(samples, limits=limits)
        self._predictors: dict[str, Predictor] = {}
        self._encoded: LruCache[tuple[object, float]] = LruCache(limits.encoded)
        self._explorers: dict[str, Explorer] = {}
        self._tries = 0
        self._tried: list[str] = []

    def models(self) -> list[dict[str, Any]]:
        """Names and properties of the models."""
        # Other threads replace the dictionary, and never change it.
        return [{"name": model.name, **model.about} for model in self._models.values()]

    def check_models(self) -> None:
        """Load all models, so that a broken one is reported at once.

        Raises:
            MixqsamError: a model cannot be loaded.
        """
        for name in self._models:
            self._predictor(name)

    def segment(self, model: str, image: str, prompts: Prompts, *, choice: int = 0) -> Segmentation:
        """Segment an image with one prompt.

        Args:
            model: its name.
            image: its name.
            prompts: one prompt.
            choice: 0 for the model's one mask, 1 to 3 for one of its three.

        Raises:
            InputError: the model or the image is unknown, or one of three masks is asked of a model that has one.
        """
        predictor, encode_seconds, encoded_now = self._encode(model, image)
        started = time.perf_counter()
        prediction = predictor.segment(prompts, multimask=choice > 0)
        prompt_seconds = time.perf_counter() - started
        predictor.reset_image()
        index = max(0, choice - 1)
        mask, score = prediction.masks[0, index], float(prediction.scores[0, index])
        return Segmentation(mask, score, encode_seconds, encoded_now, prompt_seconds)

    def find_masks(self, model: str, image: str, points: Prompts, options: Automatic) -> Masks:
        """Find masks of an image at some points of a grid.

        Args:
            model: its name.
            image: its name.
            points: one for each prompt.
            options: how sure a mask has to be.

        Raises:
            InputError: the model or the image is unknown.
        """
        predictor, _, _ = self._encode(model, image)
        masks = find_masks(predictor, points, options)
        predictor.reset_image()
        return masks

    def _encode(self, model: str, image: str) -> tuple[Predictor, float, bool]:
        """A model's predictor with an image, the seconds of encoding, and whether it was encoded just now."""
        predictor = self._predictor(model)
        picture = self.gallery.image(image)
        cached = self._encoded.get((model, image))
        if cached is not None:
            predictor.restore(cached[0])
            return predictor, cached[1], False
        seconds = _measure_seconds(lambda: predictor.set_image(picture))
        self._encoded.put((model, image), (predictor.keep(), seconds))
        return predictor, seconds, True

    def explorer(self, model: str) -> Explorer:
        """Open the stored analysis of a model.

        Raises:
            InputError: the model has no stored analysis.
        """
        if model not in self._explorers:
            self._explorers[model] = Explorer(self.directory(model))
        return self._explorers[model]

    def directory(self, model: str) -> Path:
        """Find the directory of a model.

        Raises:
            InputError: the model has no stored analysis.
        """
        entry = self._models.get(model)
        if entry is None or not entry.about["analysed"]:
            raise InputError(f"{model!r} has no stored analysis; choose a directory that `mixqsam quantize` wrote.")
        return Path(entry.source)

    def add_tried(self, base: str, predictor: Predictor, *, size: float, bitops: float) -> str:
        """Serve a model that was made to be tried, and return its name; the oldest of too many is removed.

        Args:
            base: name of the model whose analysis chose its bits.
            predictor: the model.
            size: its bytes.
            bitops: its BitOps per image.
        """
        self._tries += 1
        name = f"{base}, try {self._tries}"
        about = {"size": size, "bitops": bitops, "analysed": False, "base": base}
        self._tried.append(name)
        models = {**self._models, name: _Model(name, "", about)}
        for old in self._tried[: -self.limits.tried]:
            del models[old], self._predictors[old]
        self._tried = self._tried[-self.limits.tried :]
        self._models, self._predictors[name] = models, predictor
        return name

    def _predictor(self, model: str) -> Predictor:
        if model not in self._predictors:
            entry = self._models.get(model)
            if entry is None:
                raise InputError(f"The model {model!r} is not served; choose {', '.join(self._models)}.")
            self._predictors[model] = make_predictor(entry.source)
        return self._predictors[model]


def _describe(source: str, models: Mapping[str, str]) -> dict[str, Any]:
    """Describe a model without loading it; quantized models know the costs of their float model."""
    own_costs = stored_costs(Path(source))
    quantized = [
        Path(other)
        for other in models.values()
        if (Path(other) / MARKER).is_file() and float_source(Path(other)) == source
    ]
    costs = own_costs or (float_costs(quantized[0]) if quantized else {})
    return {"size": costs.get("size"), "bitops": costs.get("bitops"), "analysed": bool(own_costs)}


def _measure_seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
