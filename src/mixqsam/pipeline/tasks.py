"""Options of single tasks: oriented detection, semantic segmentation, detectors. Loads neither torch nor numpy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mixqsam.errors import InputError
from mixqsam.options.fields import Option
from mixqsam.options.names import PromptKind
from mixqsam.options.values import OptionClass


@dataclass(frozen=True)
class OrientedData(OptionClass):
    """An oriented data set.

    Attributes:
        images, labels: folders of images and labels.
        boxes: folder of a detector's `Task2_<category>.txt`; None for the rectangles around the labelled objects.
        tile, overlap: side and overlap of the tiles, in pixels.
        merge: rotated IoU above which the weaker of two results of a category is dropped.
    """

    images: Annotated[Path, Option("Folder of images (jpg, png, webp).", flags=("--images", "-i"))]
    labels: Annotated[Path, Option("Folder of DOTA's label files (P0001.txt, …).", flags=("--labels", "-l"))]
    boxes: Annotated[
        Path | None,
        Option("Folder of a detector's Task2_<category>.txt.", default_help="rectangles around the labels"),
    ] = None
    tile: Annotated[int, Option("Side of a tile in pixels.", minimum=16)] = 1024
    overlap: Annotated[int, Option("Pixels that neighbouring tiles share.", minimum=0)] = 200
    merge: Annotated[
        float, Option("Rotated IoU above which the weaker of two results is dropped.", minimum=0, maximum=1)
    ] = 0.1

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            InputError: a value is not valid, or the overlap does not fit the tile.
        """
        super().__post_init__()
        if self.overlap >= self.tile:
            raise InputError(
                f"--overlap {self.overlap} does not fit tiles of {self.tile} pixels; it has to be smaller."
            )


@dataclass(frozen=True)
class SemanticData(OptionClass):
    """A data set of label maps.

    Attributes:
        images, labels: folders of images and labels.
        prompts: `boxes` around regions, or `points` inside them.
        background: class of pixels without a mask; its regions give no prompts.
        least: minimum number of pixels of a region with a prompt.
    """

    images: Annotated[Path, Option("Folder of images (jpg, png, webp).", flags=("--images", "-i"))]
    labels: Annotated[Path, Option("Folder of label maps: PNG whose pixels are classes.", flags=("--labels", "-l"))]
    prompts: Annotated[PromptKind, Option("Boxes around regions, or points inside them, prompt the model.")] = "boxes"
    background: Annotated[
        int | None,
        Option("Class of pixels without a mask; its regions give no prompts.", minimum=0, maximum=254),
    ] = None
    least: Annotated[int, Option("Minimum number of pixels of a region with a prompt.", minimum=1)] = 64


@dataclass(frozen=True)
class DetectionOptions(OptionClass):
    """Selection of a detector's boxes; None for the values of its publication.

    Attributes:
        score: minimum score.
        top: maximum number of boxes per image.
        nms: IoU above which the weaker box of a class is dropped; 1 drops none.
    """

    score: Annotated[
        float | None, Option("Minimum score.", minimum=0, maximum=1, default_help="as published for the detector")
    ] = None
    top: Annotated[int | None, Option("Maximum number of boxes per image.", minimum=1)] = None
    nms: Annotated[
        float | None,
        Option("IoU above which the weaker box of a class is dropped; 1 drops none.", minimum=0, maximum=1),
    ] = None
