"""How masks are made when everything is segmented; loads neither torch nor numpy."""

from dataclasses import dataclass
from typing import Annotated

from mixqsam.options.fields import Option
from mixqsam.options.values import OptionClass


@dataclass(frozen=True)
class Automatic(OptionClass):
    """How masks are made and chosen; the defaults are those of Meta's generator.

    Attributes:
        side: points per side of the grid.
        predicted_iou: minimum IoU that the model predicts for its mask.
        stability: minimum IoU of the masks cut at −1 and at +1 logits.
        overlap: box IoU above which the less certain of two masks is dropped, or that of the larger crop.
        crop_layers: layer n cuts the image into 2^n × 2^n crops, each of which is segmented as an image; 0 for none.
        crop_overlap: pixels by which the crops of the first layer overlap, as a share of the image's shorter side; half
            of it in each further layer.
        crop_downscale: each layer divides the points per side by this.
    """

    side: Annotated[int, Option("Points per side of the grid.", minimum=1, maximum=64)] = 32
    predicted_iou: Annotated[float, Option("Minimum IoU that the model predicts for a mask.", maximum=1)] = 0.88
    stability: Annotated[float, Option("Minimum IoU of the masks cut at -1 and at +1.", minimum=0, maximum=1)] = 0.95
    overlap: Annotated[
        float, Option("Box IoU above which the less certain of two masks is dropped.", minimum=0, maximum=1)
    ] = 0.7
    crop_layers: Annotated[
        int, Option("Layers of crops: layer n segments 2^n x 2^n parts of the image too.", minimum=0, maximum=4)
    ] = 0
    crop_overlap: Annotated[
        float, Option("Overlap of the first layer's crops, as a share of the shorter side.", minimum=0, maximum=1)
    ] = 512 / 1500
    crop_downscale: Annotated[
        int, Option("Each layer of crops divides the points per side by this.", minimum=1, maximum=64)
    ] = 1
