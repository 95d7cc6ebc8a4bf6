"""Models and images of the page, and caches of both. Not thread-safe."""

import io
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mixqsam.data.images import decode_image, open_image
from mixqsam.errors import AnnotationError, ImageError, InputError
from mixqsam.pipeline.evaluate import float_costs, float_source, stored_costs
from mixqsam.pipeline.explore import Explorer
from mixqsam.pipeline.stages import MARKER, make_predictor
from mixqsam.prediction import Predictor
from mixqsam.prompts import Prompts, clip_boxes, point_prompt
from mixqsam.reporting.overlay import png_bytes
from mixqsam.serving.limits import Limits

T = TypeVar("T")


class LruCache(Generic[T]):
    """A cache of the most recently used values."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._values: OrderedDict[Any, T] = OrderedDict()

    def get(self, key: Any) -> T | None:
        """The value, or None if it was removed."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Any, value: T) -> None:
        """Store a value; the least recently used one may be removed."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._count:
            self._values.popitem(last=False)


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
    """Models and images by name.

    Args:
        models: name → float model, quantized directory, or exported directory. Each is loaded at its first use.
        samples: images that visitors may choose.
        limits: sizes of the caches.
    """

    def __init__(self, models: Mapping[str, str], samples: Mapping[str, Path], *, limits: Limits) -> None:
        self.limits = limits
        self._models = {name: _Model(name, source, _describe(source, models)) for name, source in models.items()}
        self._samples = dict(samples)
        self._predictors: dict[str, Predictor] = {}
        self._uploads: LruCache[Image.Image] = LruCache(limits.images)
        self._opened: LruCache[Image.Image] = LruCache(4)
        self._encoded: LruCache[tuple[object, float]] = LruCache(limits.encoded)
        self._explorers: dict[str, Explorer] = {}
        self._count = 0

    def models(self) -> list[dict[str, Any]]:
        """Names and properties of the models."""
        return [{"name": model.name, **model.about} for model in self._models.values()]

    def samples(self) -> list[str]:
        """Names of the images that come with the page."""
        return list(self._samples)

    def check_models(self) -> None:
        """Load all models, so that a broken one is reported at once.

        Raises:
            MixqsamError: a model cannot be loaded.
        """
        for name in self._models:
            self._predictor(name)

    def add_image(self, content: bytes) -> dict[str, Any]:
        """Add an uploaded image.

        Raises:
            ImageError: the content is not an image, or is too large.
        """
        image = self._shrink(decode_image(io.BytesIO(content), name="The upload"))
        self._count += 1
        name = f"upload-{self._count}"
        self._uploads.put(name, image)
        return {"image": name, "width": image.width, "height": image.height}

    def image(self, name: str) -> Image.Image:
        """Get an image at the resolution of the page.

        Raises:
            ImageError: the image is unknown, or was removed.
        """
        image = self._uploads.get(name) or self._opened.get(name)
        if image is None:
            path = self._samples.get(name)
            if path is None:
                raise ImageError(f"The image {name!r} is not on the server; upload it again.")
            image = self._shrink(open_image(path))
            self._opened.put(name, image)
        return image

    def picture(self, name: str, *, side: int | None = None) -> bytes:
        """Encode an image as JPEG, resized to `side` if given."""
        image = self.image(name)
        if side is not None:
            image = image.copy()
            image.thumbnail((side, side))
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=90)
        return stream.getvalue()

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
        predictor = self._predictor(model)
        picture = self.image(image)
        cached = self._encoded.get((model, image))
        if cached is None:
            encode_seconds = _measure_seconds(lambda: predictor.set_image(picture))
            self._encoded.put((model, image), (predictor.keep(), encode_seconds))
        else:
            predictor.restore(cached[0])
            encode_seconds = cached[1]
        started = time.perf_counter()
        prediction = predictor.segment(prompts, multimask=choice > 0)
        prompt_seconds = time.perf_counter() - started
        predictor.reset_image()
        index = max(0, choice - 1)
        mask, score = prediction.masks[0, index], float(prediction.scores[0, index])
        return Segmentation(mask, score, encode_seconds, cached is None, prompt_seconds)

    def explorer(self, model: str) -> Explorer:
        """Open the stored analysis of a model.

        Raises:
            InputError: the model has no stored analysis.
        """
        if model not in self._explorers:
            entry = self._models.get(model)
            if entry is None or not entry.about["analysed"]:
                raise InputError(f"{model!r} has no stored analysis; choose a directory that `mixqsam quantize` wrote.")
            self._explorers[model] = Explorer(Path(entry.source))
        return self._explorers[model]

    def _predictor(self, model: str) -> Predictor:
        if model not in self._predictors:
            entry = self._models.get(model)
            if entry is None:
                raise InputError(f"The model {model!r} is not served; choose {', '.join(self._models)}.")
            self._predictors[model] = make_predictor(entry.source)
        return self._predictors[model]

    def _shrink(self, image: Image.Image) -> Image.Image:
        image.thumbnail((self.limits.side, self.limits.side), Image.Resampling.LANCZOS)
        return image


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


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """Encode a mask as a black and white PNG."""
    return png_bytes(Image.fromarray(mask))


def compare_masks(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare two masks: their IoU, and the pixels in only one of them."""
    intersection, union = int((first & second).sum()), int((first | second).sum())
    return {
        "iou": intersection / union if union else 1.0,
        "only_first": int((first & ~second).sum()),
        "only_second": int((second & ~first).sum()),
    }


def parse_choice(value: Any) -> int:
    """Which mask a request asks for: 0 for the model's one mask, 1 to 3 for one of three.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(value, bool) or value not in (0, 1, 2, 3):
        raise InputError("The mask is 0 for the model's one mask, or 1, 2 or 3 for one of its three.")
    return int(value)


def parse_prompt(value: Mapping[str, Any], *, width: int, height: int, maximum: int) -> Prompts:
    """Parse a visitor's box and points as one prompt.

    Args:
        value: `box` ([4] or none) and `points` ([[x, y, label], …]).
        width: width of the image.
        height: height of the image.
        maximum: maximum number of points.

    Raises:
        AnnotationError: there is neither box nor point, there are too many, or they are not numbers inside the image.
    """
    box, points = _parse_numbers(value.get("box"), (1, 4)), _parse_numbers(value.get("points"), (-1, 3))
    if box is None and points is None:
        raise AnnotationError("Draw a box or click a point.")
    if points is not None and len(points) > maximum:
        raise AnnotationError(f"There are {len(points)} points; at most {maximum} are allowed.")
    clicked = Prompts() if points is None else point_prompt(points, width=width, height=height, source="The points")
    boxes = None if box is None else clip_boxes(box, width=width, height=height, source="The box")
    return replace(clicked, boxes=boxes)


def _parse_numbers(value: Any, shape: tuple[int, int]) -> NDArray[np.float64] | None:
    if not value:
        return None
    try:
        return np.asarray(value, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError("A box is x1, y1, x2, y2, and a point x, y, label.") from error
