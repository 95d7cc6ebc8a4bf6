"""Samples: an image file and the prompts that go with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

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


@dataclass(frozen=True)
class Sample:
    """One image with its prompts.

    Attributes:
        path: the image file.
        width, height: of the upright image, in pixels.
        prompts: in pixels of that image; may be none.
        image_id: the annotation file's number of it; 0 without annotations.
        categories: of each prompt; empty without annotations.
        scores: the detector's, of each prompt; None for ground truth and points.
        annotation_ids: of the ground truth's instance behind each prompt; empty for all others.
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
        """What prompts it: `grid points`, `annotated boxes`, `detector's boxes` or `boxes`."""
        if self.prompts.boxes is None:
            return "grid points"
        if self.scores is not None:
            return "detector's boxes"
        return "annotated boxes" if self.annotation_ids else "boxes"

    def open(self) -> Image.Image:
        """The image, upright and RGB.

        Raises:
            ImageError: it cannot be read, or is not of the size that the annotations say.
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
        """A hash of `digest` and of what results are labelled with: image number, categories, scores, annotations."""
        return digest(self.digest(), self.image_id, self.categories, self.scores, self.annotation_ids)


def folder_samples(
    folder: Path, *, count: int | None, grid: int, progress: Progress, seed: int | None = None
) -> list[Sample]:
    """Images of a folder, each prompted with grid × grid points, in the order of their names.

    Args:
        folder: searched with all its sub-folders.
        count: at most so many images; None for all.
        grid: points per side.
        progress: is told what is skipped.
        seed: None for the first ones by name; else those of a sample (see `spread`) that can be decoded.

    Raises:
        ImageError: no folder, no images, or none that can be read.
    """
    paths = list_images(folder)
    if seed is None or count is None:
        found = measured_images(paths, count=count, progress=progress)
    else:
        drawn = decoded_images([paths[i] for i in spread(paths, seed=seed)], count=count, progress=progress)
        found = sorted(drawn, key=lambda image: image[0])
    return [
        Sample(path, width, height, point_grid(width=width, height=height, side=grid)) for path, width, height in found
    ]


def spread(paths: Sequence[Path], *, seed: int) -> list[int]:
    """Indices of all paths in a random order that takes one of each folder in turn.

    However many are taken of it, every folder has its share, as far as it holds enough. A longer sample begins with
    the shorter one of the same seed.
    """
    folders: dict[Path, list[int]] = {}
    for index, path in enumerate(paths):
        folders.setdefault(path.parent, []).append(index)
    rng = np.random.default_rng([abs(seed), int(seed < 0)])
    shuffled = [rng.permutation(folders[folder]).tolist() for folder in sorted(folders)]
    turns = [shuffled[i] for i in rng.permutation(len(shuffled))]
    return [index for row in zip_longest(*turns) for index in row if index is not None]


def drawn_samples(samples: Sequence[Sample], *, count: int | None, seed: int) -> list[Sample]:
    """A sample of `count` samples (see `spread`), in their own order; None for all."""
    chosen = spread([sample.path for sample in samples], seed=seed)[:count]
    return [samples[index] for index in sorted(chosen)]


def for_calibration(
    samples: Sequence[Sample], *, count: int, prompts: int, progress: Progress, seed: int = 0
) -> list[Sample]:
    """A sample of `count` samples that can be read and have prompts, with at most `prompts` of them each.

    The choice is seeded and spread over folders (see `spread`); the order stays that of `samples`.

    Raises:
        AnnotationError: no sample has prompts.
        ImageError: no image can be read.
    """
    prompted = [s for s in samples if len(s.prompts)]
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
    return [_with_prompts(prompted[index], prompts) for index in sorted(chosen)]


def _with_prompts(sample: Sample, count: int) -> Sample:
    """A sample with at most `count` prompts; its number decides which."""
    # Random generators take no seeds below zero.
    seed = sample.image_id if sample.image_id >= 0 else (2 << 64) - sample.image_id
    return replace(sample, prompts=sample.prompts.at_most(count, seed=seed))
