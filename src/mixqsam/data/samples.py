"""Samples: an image file and its prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from mixqsam.data.images import (
    decoded_images,
    image_digest,
    list_images,
    measured_images,
    note_skipped,
    open_image,
)
from mixqsam.errors import AnnotationError, ImageError
from mixqsam.files import digest
from mixqsam.progress import Progress
from mixqsam.prompts import Prompts, point_grid

Value = TypeVar("Value")


@dataclass(frozen=True)
class Sample:
    """One image with its prompts.

    Attributes:
        path: the image file.
        width, height: size of the upright image, in pixels.
        prompts: prompts in pixels of that image; may be empty.
        image_id: id of the image in the annotation file; 0 without annotations.
        categories: category of each prompt; empty without annotations.
        scores: the detector's score of each prompt; None for ground truth and points.
        annotation_ids: id of the ground-truth instance of each prompt; empty for other prompts.
    """

    path: Path
    width: int
    height: int
    prompts: Prompts
    image_id: int = 0
    categories: tuple[int, ...] = ()
    scores: tuple[float, ...] | None = None
    annotation_ids: tuple[int, ...] = ()

    @property
    def prompt_kind(self) -> str:
        """Kind of the prompts: `grid points`, `annotated boxes`, `detector's boxes` or `boxes`."""
        if self.prompts.boxes is None:
            return "grid points"
        if self.scores is not None:
            return "detector's boxes"
        return "annotated boxes" if self.annotation_ids else "boxes"

    def open(self) -> Image.Image:
        """Open the image, upright and RGB.

        Raises:
            ImageError: it cannot be read, or does not have the size in the annotations.
        """
        image = open_image(self.path)
        if (image.width, image.height) != (self.width, self.height):
            raise ImageError(
                f"{self.path} is {image.width}×{image.height} pixels, but its annotations say "
                f"{self.width}×{self.height}; boxes would not fit."
            )
        return image

    def digest(self) -> str:
        """A hash of the image's content and its prompts; the file is read once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        arrays = (self.prompts.boxes, self.prompts.points, self.prompts.labels)
        return digest(image_digest(self.path), [None if a is None else a.tolist() for a in arrays])

    def labelled_digest(self) -> str:
        """A hash of `digest` and the labels of results: image id, categories, scores, annotations."""
        return digest(self.digest(), self.image_id, self.categories, self.scores, self.annotation_ids)


def folder_samples(
    folder: Path, *, count: int | None, grid: int, progress: Progress, seed: int | None = None
) -> list[Sample]:
    """Make samples of the images of a folder, each with grid × grid points, in the order of their names.

    Args:
        folder: folder of images, with all its sub-folders.
        count: maximum number of images; None for all.
        grid: points per side.
        progress: receives notes about skipped images.
        seed: seed of a random sample of decodable images (see `spread`); None for the first by name.

    Raises:
        ImageError: the folder does not exist, or does not hold a readable image.
    """
    paths = list_images(folder)
    if seed is None or count is None:
        measured = measured_images(paths, count=count, progress=progress)
    else:
        drawn = decoded_images([paths[i] for i in spread(paths, seed=seed)], count=count, progress=progress)
        measured = sorted(drawn, key=lambda image: image[0])
    return [
        Sample(path, width, height, point_grid(width=width, height=height, side=grid))
        for path, width, height in measured
    ]


def space_evenly(values: Sequence[Value], *, count: int) -> list[Value]:
    """Take `count` evenly spaced ones, in their order; a sorted list of images has neighbours from one folder."""
    return [values[(2 * index + 1) * len(values) // (2 * count)] for index in range(count)]


def spread(paths: Sequence[Path], *, seed: int) -> list[int]:
    """Order the indices of all paths randomly, one of each folder in turn.

    Every beginning of this order has an equal share of every folder, if the folder holds enough. A longer sample
    begins with the shorter one of the same seed.
    """
    folders: dict[Path, list[int]] = {}
    for index, path in enumerate(paths):
        folders.setdefault(path.parent, []).append(index)
    rng = np.random.default_rng([abs(seed), int(seed < 0)])
    shuffled = [rng.permutation(folders[folder]).tolist() for folder in sorted(folders)]
    turns = [shuffled[i] for i in rng.permutation(len(shuffled))]
    return [index for row in zip_longest(*turns) for index in row if index is not None]


def draw_samples(samples: Sequence[Sample], *, count: int | None, seed: int) -> list[Sample]:
    """Draw `count` samples at random (see `spread`), in the order of `samples`; None for all."""
    chosen = spread([sample.path for sample in samples], seed=seed)[:count]
    return [samples[index] for index in sorted(chosen)]


def draw_calibration_samples(
    samples: Sequence[Sample], *, count: int, prompts: int, progress: Progress, seed: int = 0
) -> list[Sample]:
    """Draw `count` readable samples with prompts, and at most `prompts` prompts of each.

    The draw is seeded and spread over folders (see `spread`); the order is that of `samples`.

    Raises:
        AnnotationError: no sample has prompts.
        ImageError: no image can be read.
    """
    prompted = [sample for sample in samples if len(sample.prompts)]
    if not prompted:
        raise AnnotationError("No image has a box or point to prompt the model with.")
    chosen: list[int] = []
    broken: list[str] = []
    for index in spread([sample.path for sample in prompted], seed=seed):
        if len(chosen) == count:
            break
        try:
            prompted[index].open()
        except ImageError as error:
            broken.append(str(error))
            continue
        chosen.append(index)
    note_skipped(broken, total=len(broken) + len(chosen), progress=progress)
    return [_limit_prompts(prompted[index], prompts) for index in sorted(chosen)]


def _limit_prompts(sample: Sample, count: int) -> Sample:
    """Limit the prompts of a sample to `count`; its id is the seed of the choice."""
    # Random generators take no seeds below zero.
    seed = sample.image_id if sample.image_id >= 0 else (2 << 64) - sample.image_id
    return replace(sample, prompts=sample.prompts.at_most(count, seed=seed))
