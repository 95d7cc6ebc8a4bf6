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
        overlap: box IoU above which the less certain of two masks is dropped.
    """

    side: Annotated[int, Option("Points per side of the grid.", minimum=1, maximum=64)] = 32
    predicted_iou: Annotated[float, Option("Minimum IoU that the model predicts for a mask.")] = 0.88
    stability: Annotated[float, Option("Minimum IoU of the masks cut at -1 and at +1.")] = 0.95
    overlap: Annotated[float, Option("Box IoU above which the less certain of two masks is dropped.")] = 0.7
