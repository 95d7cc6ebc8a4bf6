"""Pictures of the images on which a quantized model does worst, as usual, and best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixqsam.data.samples import Sample
from mixqsam.evaluation.evaluate import ImageScore
from mixqsam.evaluation.record import mask_ious
from mixqsam.prediction import Predictor
from mixqsam.progress import Progress
from mixqsam.reporting.overlay import draw_difference, draw_overlay, jpeg_bytes
from mixqsam.reporting.record import Example, Which

# More masks on one picture than these cannot be told apart.
_SHOWN = 6
_SIDE = 720


@dataclass(frozen=True)
class Drawn:
    """An example and its pictures.

    Attributes:
        example: as it is told; its pictures are named after the files that they are to be.
        contents: file → JPEG.
    """

    example: Example
    contents: Mapping[str, bytes]


def choose(scores: Sequence[ImageScore]) -> dict[Which, ImageScore]:
    """The images with the lowest, the median and the highest mean IoU, as far as there are so many."""
    ranked = sorted(scores, key=lambda one: (one.mean_iou, one.index))
    if not ranked:
        return {}
    if len(ranked) == 1:
        return {"median": ranked[0]}
    chosen: dict[Which, ImageScore] = {"worst": ranked[0]}
    if len(ranked) > 2:
        chosen["median"] = ranked[len(ranked) // 2]
    return chosen | {"best": ranked[-1]}


def draw_examples(
    predictors: Mapping[str, Predictor],
    samples: Sequence[Sample],
    scores: Sequence[ImageScore],
    *,
    progress: Progress,
) -> list[Drawn]:
    """Masks of all models on the chosen images, and where the last differs from the first.

    Args:
        predictors: name → model; the first is the float model, the last the one that `scores` are of.
        samples: what was evaluated.
        scores: of its images.
        progress: is told about images.
    """
    chosen = choose(scores)
    tracked = progress.track(chosen.items(), label="Drawing", total=len(chosen))
    return [_draw(predictors, samples[score.index], score, which) for which, score in tracked]


def _draw(predictors: Mapping[str, Predictor], sample: Sample, score: ImageScore, which: Which) -> Drawn:
    image = sample.open()
    masks = {}
    for name, predictor in predictors.items():
        predictor.set_image(image)
        masks[name] = predictor.segment(sample.prompts).masks[:, 0]
        predictor.reset_image()
    first, last = next(iter(masks.values())), list(masks.values())[-1]
    shown = np.sort(np.argsort(mask_ious(last, first), kind="stable")[:_SHOWN])
    prompts = sample.prompts.take(shown)
    pictures = {name: draw_overlay(image, one[shown], prompts) for name, one in masks.items()}
    pictures["difference"] = draw_difference(image, _union(first[shown]), _union(last[shown]))
    files = {name: f"examples/{which}-{name}.jpg" for name in pictures}
    example = Example(
        which=which,
        image=sample.path.name,
        mean_iou=score.mean_iou,
        prompts=len(sample.prompts),
        shown=len(shown),
        pictures=files,
    )
    contents = {}
    for name, picture in pictures.items():
        picture.thumbnail((_SIDE, _SIDE))
        contents[files[name]] = jpeg_bytes(picture)
    return Drawn(example, contents)


def _union(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    covered: NDArray[np.bool_] = np.logical_or.reduce(masks, axis=0)
    return covered
