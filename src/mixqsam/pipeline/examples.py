"""Pictures of the images with the worst, the median and the best masks of a quantized model."""

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

_SIDE = 720


@dataclass(frozen=True)
class DrawnExample:
    """An example and its pictures.

    Attributes:
        example: record of the example, with the names of its pictures' files.
        contents: file → JPEG.
    """

    example: Example
    contents: Mapping[str, bytes]


def choose_images(scores: Sequence[ImageScore]) -> dict[Which, ImageScore]:
    """Choose the images with the lowest, the median and the highest mean IoU; fewer than three give fewer."""
    ranked = sorted(scores, key=lambda score: (score.mean_iou, score.index))
    if not ranked:
        return {}
    if len(ranked) == 1:
        return {"median": ranked[0]}
    chosen: dict[Which, ImageScore] = {"worst": ranked[0]}
    if len(ranked) > 2:
        chosen["median"] = ranked[len(ranked) // 2]
    return chosen | {"best": ranked[-1]}


def choose_prompt(ious: NDArray[np.float64], which: Which) -> int:
    """The prompt of an image whose mask has the lowest, the median or the highest IoU; [prompts] → its index."""
    ranks: dict[Which, int] = {"worst": 0, "median": len(ious) // 2, "best": len(ious) - 1}
    return int(np.argsort(ious, kind="stable")[ranks[which]])


def draw_examples(
    predictors: Mapping[str, Predictor],
    samples: Sequence[Sample],
    scores: Sequence[ImageScore],
    *,
    progress: Progress,
) -> list[DrawnExample]:
    """Draw the masks of all models on the chosen images, and the differences of the last from the first.

    Args:
        predictors: name → model; the first is the float model, the last has the `scores`.
        samples: evaluated images.
        scores: scores of these images.
        progress: receives the progress of each image.
    """
    chosen = choose_images(scores)
    tracked = progress.track(chosen.items(), label="Drawing", total=len(chosen))
    return [_draw(predictors, samples[score.index], score, which) for which, score in tracked]


def _draw(predictors: Mapping[str, Predictor], sample: Sample, score: ImageScore, which: Which) -> DrawnExample:
    image = sample.open()
    masks = {}
    for name, predictor in predictors.items():
        predictor.set_image(image)
        masks[name] = predictor.segment(sample.prompts).masks[:, 0]
        predictor.reset_image()
    first, last = next(iter(masks.values())), list(masks.values())[-1]
    ious = mask_ious(last, first)
    # Several masks would cover each other.
    shown = choose_prompt(ious, which)
    prompts = sample.prompts.take(np.array([shown]))
    pictures = {name: draw_overlay(image, drawn[[shown]], prompts) for name, drawn in masks.items()}
    pictures["difference"] = draw_difference(image, first[shown], last[shown])
    files = {name: f"examples/{which}-{name}.jpg" for name in pictures}
    example = Example(
        which=which,
        image=sample.path.name,
        mean_iou=score.mean_iou,
        prompts=len(sample.prompts),
        shown=1,
        shown_iou=float(ious[shown]),
        pictures=files,
    )
    contents = {}
    for name, picture in pictures.items():
        picture.thumbnail((_SIDE, _SIDE))
        contents[files[name]] = jpeg_bytes(picture)
    return DrawnExample(example, contents)
