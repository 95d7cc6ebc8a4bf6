"""Images and prompts as a user names them; loads neither torch nor numpy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mixqsam.errors import InputError
from mixqsam.options.fields import Nested, Option
from mixqsam.options.values import OptionClass
from mixqsam.pipeline.box_files import BoxFiles, parse_box_files, write_box_files
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
        boxes: a COCO-results file whose boxes take the place of the annotations' boxes. The evaluation of a comparison
            takes several: detector's name → file.
        grid: points per side of the grid.
        skip_missing: skip images that the folder does not hold, and count them.
    """

    images: Annotated[Path, Option("Folder of images (jpg, png, webp).", flags=("--images", "-i"))]
    annotations: Annotated[
        Path | None, Option("COCO annotation file of the images. Its boxes are the prompts.", panel=_IMAGES)
    ] = None
    boxes: Annotated[
        BoxFiles | None,
        Option(
            "COCO-results JSON whose boxes are the prompts. `compare` evaluates on several: --eval-boxes NAME=FILE.",
            panel=_IMAGES,
            parse=parse_box_files,
            write=write_box_files,
            is_repeated=True,
        ),
    ] = None
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

        Raises:
            InputError: there are several files of boxes.
        """
        from mixqsam.data.coco import annotated_samples  # noqa: PLC0415  (loads numpy)
        from mixqsam.data.loose_boxes import boxed_samples  # noqa: PLC0415
        from mixqsam.data.samples import folder_samples  # noqa: PLC0415

        boxes = self.only_boxes
        if self.annotations is not None:
            return annotated_samples(
                self.annotations,
                images=self.images,
                detections=boxes,
                skip_missing=self.skip_missing,
                progress=progress,
            )
        if boxes is not None:
            return boxed_samples(boxes, images=self.images, skip_missing=self.skip_missing, progress=progress)
        return folder_samples(self.images, count=count, grid=self.grid, progress=progress, seed=seed)

    def by_detector(self) -> "dict[str, Data]":
        """The same images with each named file of boxes alone; empty where boxes have no names."""
        named = self.boxes if isinstance(self.boxes, Mapping) else {}
        return {name: replace(self, boxes=file) for name, file in named.items()}

    @property
    def only_boxes(self) -> Path | None:
        """The file of boxes, if there is one.

        Raises:
            InputError: there are several.
        """
        if not isinstance(self.boxes, Mapping):
            return self.boxes
        if len(self.boxes) == 1:
            return next(iter(self.boxes.values()))
        raise InputError(
            f"Boxes come from {len(self.boxes)} files here ({', '.join(self.boxes)}), and one is expected; only "
            "`mixqsam compare --eval-boxes` takes several."
        )


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
