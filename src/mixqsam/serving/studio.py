"""What the page works on: models, images, and what is remembered of both. One caller at a time."""

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


class Recent(Generic[T]):
    """The most recently used of some values; the others are forgotten."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._values: OrderedDict[Any, T] = OrderedDict()

    def get(self, key: Any) -> T | None:
        """A value that is still known."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Any, value: T) -> None:
        """Remember a value; the one that was not used for longest may go."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._count:
            self._values.popitem(last=False)


@dataclass(frozen=True)
class Found:
    """What one model says to one prompt.

    Attributes:
        mask: [height, width].
        predicted_iou: by the model itself.
        encode_seconds: of the image, when it was encoded.
        encoded_now: whether that was just now.
        prompt_seconds: of the prompt.
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


def gather(sources: Sequence[str]) -> dict[str, str]:
    """Name → source of the models to serve: the float model first, then those that were named.

    Raises:
        ModelError: the float model of a directory is not known.
    """
    first = next((one for one in sources if (Path(one) / MARKER).is_file()), None)
    chosen = {"float": float_source(Path(first))} if first else {}
    names = [Path(one).resolve().name if Path(one).is_dir() else one for one in sources]
    for name, source in zip(names, sources, strict=True):
        if source not in chosen.values():
            chosen[source if names.count(name) > 1 or name in chosen else name] = source
    return chosen


class Studio:
    """Models and images by name.

    Args:
        models: name → float model, quantized directory, or exported directory. Each is loaded when first used.
        samples: images that visitors may choose.
        limits: how much is remembered.
    """

    def __init__(self, models: Mapping[str, str], samples: Mapping[str, Path], *, limits: Limits) -> None:
        self.limits = limits
        self._models = {name: _Model(name, source, _about(source, models)) for name, source in models.items()}
        self._samples = dict(samples)
        self._predictors: dict[str, Predictor] = {}
        self._uploads: Recent[Image.Image] = Recent(limits.images)
        self._opened: Recent[Image.Image] = Recent(4)
        self._encoded: Recent[tuple[object, float]] = Recent(limits.encoded)
        self._explorers: dict[str, Explorer] = {}
        self._count = 0

    def models(self) -> list[dict[str, Any]]:
        """What there is to choose from, and what is known of it."""
        return [{"name": one.name, **one.about} for one in self._models.values()]

    def samples(self) -> list[str]:
        """Names of the images that come with the page."""
        return list(self._samples)

    def check_models(self) -> None:
        """Load all models, so that a bad one is told of at once.

        Raises:
            MixqsamError: one cannot be loaded.
        """
        for name in self._models:
            self._predictor(name)

    def add_image(self, content: bytes) -> dict[str, Any]:
        """Take an uploaded image.

        Raises:
            ImageError: it is not one, or too large.
        """
        image = self._shrunk(decode_image(io.BytesIO(content), name="The upload"))
        self._count += 1
        name = f"upload-{self._count}"
        self._uploads.put(name, image)
        return {"image": name, "width": image.width, "height": image.height}

    def image(self, name: str) -> Image.Image:
        """An image as it is worked on.

        Raises:
            ImageError: it is unknown, or no longer kept.
        """
        found = self._uploads.get(name) or self._opened.get(name)
        if found is None:
            path = self._samples.get(name)
            if path is None:
                raise ImageError(f"The image {name!r} is not here (any more); upload it again.")
            found = self._shrunk(open_image(path))
            self._opened.put(name, found)
        return found

    def picture(self, name: str, *, side: int | None = None) -> bytes:
        """An image as JPEG, shrunk to `side` if that is given."""
        image = self.image(name)
        if side is not None:
            image = image.copy()
            image.thumbnail((side, side))
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=90)
        return stream.getvalue()

    def segment(self, model: str, image: str, prompts: Prompts) -> Found:
        """One mask for one prompt.

        Raises:
            InputError: the model or the image is unknown.
        """
        predictor = self._predictor(model)
        picture = self.image(image)
        kept = self._encoded.get((model, image))
        if kept is None:
            seconds = _timed(lambda: predictor.set_image(picture))
            self._encoded.put((model, image), (predictor.keep(), seconds))
        else:
            predictor.restore(kept[0])
            seconds = kept[1]
        started = time.perf_counter()
        found = predictor.segment(prompts)
        took = time.perf_counter() - started
        predictor.reset_image()
        return Found(found.masks[0, 0], float(found.scores[0, 0]), seconds, kept is None, took)

    def explorer(self, model: str) -> Explorer:
        """The stored analysis of a model.

        Raises:
            InputError: it has none.
        """
        if model not in self._explorers:
            known = self._models.get(model)
            if known is None or not known.about["analysed"]:
                raise InputError(f"{model!r} has no stored analysis; choose a directory that `mixqsam quantize` wrote.")
            self._explorers[model] = Explorer(Path(known.source))
        return self._explorers[model]

    def _predictor(self, model: str) -> Predictor:
        if model not in self._predictors:
            known = self._models.get(model)
            if known is None:
                raise InputError(f"The model {model!r} is not served; choose {', '.join(self._models)}.")
            self._predictors[model] = make_predictor(known.source)
        return self._predictors[model]

    def _shrunk(self, image: Image.Image) -> Image.Image:
        image.thumbnail((self.limits.side, self.limits.side), Image.Resampling.LANCZOS)
        return image


def _about(source: str, models: Mapping[str, str]) -> dict[str, Any]:
    """What is known of a model without loading it; a float model's costs are known to those that were made from it."""
    own = stored_costs(Path(source))
    made = [
        Path(other)
        for other in models.values()
        if (Path(other) / MARKER).is_file() and float_source(Path(other)) == source
    ]
    costs = own or (float_costs(made[0]) if made else {})
    return {"size": costs.get("size"), "bitops": costs.get("bitops"), "analysed": bool(own)}


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """A mask as a black and white PNG."""
    return png_bytes(Image.fromarray(mask))


def agreement(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """How two masks differ: their IoU, and pixels that are in one of them only."""
    both, either = int((first & second).sum()), int((first | second).sum())
    return {
        "iou": both / either if either else 1.0,
        "only_first": int((first & ~second).sum()),
        "only_second": int((second & ~first).sum()),
    }


def parse_prompt(value: Mapping[str, Any], *, width: int, height: int, most: int) -> Prompts:
    """A visitor's box and points as one prompt.

    Args:
        value: `box` ([4] or none) and `points` ([[x, y, label], …]).
        width: of the image.
        height: of the image.
        most: points at most.

    Raises:
        AnnotationError: there is neither, too many, or they are no numbers inside the image.
    """
    box, points = _numbers(value.get("box"), (1, 4)), _numbers(value.get("points"), (-1, 3))
    if box is None and points is None:
        raise AnnotationError("Draw a box or click a point.")
    if points is not None and len(points) > most:
        raise AnnotationError(f"There are {len(points)} points; at most {most} are allowed.")
    clicked = Prompts() if points is None else point_prompt(points, width=width, height=height, source="The points")
    boxes = None if box is None else clip_boxes(box, width=width, height=height, source="The box")
    return replace(clicked, boxes=boxes)


def _numbers(value: Any, shape: tuple[int, int]) -> NDArray[np.float64] | None:
    if not value:
        return None
    try:
        return np.asarray(value, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError("A box is x1, y1, x2, y2, and a point x, y, label.") from error
