"""Images and prompts as a user names them; loads neither torch nor numpy."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mixqsam.options.fields import Nested, Option
from mixqsam.options.values import OptionClass
from mixqsam.pipeline.session import Source
from mixqsam.progress import Progress

if TYPE_CHECKING:
    from mixqsam.data.samples import Sample

_IMAGES = "Images"
SkipMissing = Annotated[
    bool,
    Option(
        "Skip images that the folder does not hold, and count them.",
        flags=("--skip-missing",),
        panel=_IMAGES,
        is_advanced=True,
    ),
]


@dataclass(frozen=True)
class Data(OptionClass):
    """Images and their prompts.

    Attributes:
        images: a folder of images.
        annotations: a COCO file for them; without it each image is prompted with a grid of points.
        boxes: a COCO-results file whose boxes take the place of the annotations' boxes.
        grid: points per side of the grid.
        skip_missing: skip images that the folder does not hold, and count them.
    """

    images: Annotated[Path, Option("Folder of images (jpg, png, webp).", flags=("--images", "-i"))]
    annotations: Annotated[
        Path | None, Option("COCO annotation file of the images. Its boxes are the prompts.", panel=_IMAGES)
    ] = None
    boxes: Annotated[Path | None, Option("COCO-results JSON whose boxes are the prompts.", panel=_IMAGES)] = None
    grid: Annotated[
        int,
        Option(
            "Prompt with GRID × GRID points if there are no annotations.",
            panel=_IMAGES,
            minimum=1,
            maximum=64,
            is_advanced=True,
        ),
    ] = 4
    skip_missing: SkipMissing = False

    def samples(self, *, count: int | None, progress: Progress, seed: int | None = None) -> "list[Sample]":
        """Return all samples, or (of a folder) `count`: the first, or with a seed a random sample of all folders.

        Boxes without annotations prompt the images that they name; see `boxed_samples`.
        """
        from mixqsam.data.coco import annotated_samples  # noqa: PLC0415  (loads numpy)
        from mixqsam.data.loose_boxes import boxed_samples  # noqa: PLC0415
        from mixqsam.data.samples import folder_samples  # noqa: PLC0415

        if self.annotations is not None:
            return annotated_samples(
                self.annotations,
                images=self.images,
                detections=self.boxes,
                skip_missing=self.skip_missing,
                progress=progress,
            )
        if self.boxes is not None:
            return boxed_samples(self.boxes, images=self.images, skip_missing=self.skip_missing, progress=progress)
        return folder_samples(self.images, count=count, grid=self.grid, progress=progress, seed=seed)


@dataclass(frozen=True)
class Evaluation(OptionClass):
    """Images for the comparison of finished models with the float model.

    Attributes:
        data: images and prompts; None for those that the calibration leaves over, or if there are none, its own.
        limit: maximum number of images; 0 for no comparison. None for all, but `quantize` takes 8 of those that the
            calibration leaves over.
    """

    data: Annotated[Data | Source | None, Nested(inherit=("grid", "skip_missing"))] = None
    limit: Annotated[
        int | None,
        Option(
            "Maximum number of images to compare models on; 0 for none.",
            panel=_IMAGES,
            minimum=0,
            is_advanced=True,
            default_help="all; quantize: 8 of those that are left over",
        ),
    ] = None
