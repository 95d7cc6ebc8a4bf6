"""Samples: an image file and the prompts that go with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from PIL import Image

from mixqsam.data.images import list_images, note_skipped, open_image, readable_images
from mixqsam.errors import AnnotationError, ImageError
from mixqsam.files import digest, digest_file
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
        return digest(digest_file(self.path), [None if a is None else a.tolist() for a in arrays])

    def labelled_digest(self) -> str:
        """A hash of `digest` and of what results are labelled with: image number, categories, scores, annotations."""
        return digest(self.digest(), self.image_id, self.categories, self.scores, self.annotation_ids)


def folder_samples(folder: Path, *, count: int | None, grid: int, progress: Progress) -> list[Sample]:
    """Images of a folder, each prompted with grid × grid points.

    Raises:
        ImageError: no folder, no images, or none that can be read.
    """
    images = readable_images(list_images(folder), count=count, progress=progress)
    return [
        Sample(path, width, height, point_grid(width=width, height=height, side=grid)) for path, width, height in images
    ]


def for_calibration(samples: Sequence[Sample], *, count: int, prompts: int, progress: Progress) -> list[Sample]:
    """The first `count` samples that can be read and have prompts, with at most `prompts` of them each.

    Raises:
        AnnotationError: no sample has prompts.
        ImageError: no image can be read.
    """
    prompted = [s for s in samples if len(s.prompts)]
    if not prompted:
        raise AnnotationError("No image has a box or point to prompt the model with.")
    chosen: list[Sample] = []
    broken: list[str] = []
    for sample in prompted:
        if len(chosen) == count:
            break
        try:
            sample.open()
        except ImageError as error:
            broken.append(str(error))
            continue
        chosen.append(replace(sample, prompts=sample.prompts.at_most(prompts, seed=sample.image_id)))
    note_skipped(broken, total=len(chosen) + len(broken), progress=progress)
    return chosen
