"""What an evaluation of oriented detection returns; it needs no geometry, and so not the extra `oriented`."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class OrientedScores:
    """Mean average precision over categories, in percent.

    Attributes:
        map50_voc07: at rotated IoU 0.5, by VOC 07's eleven points: DOTA's own figure.
        map50: at rotated IoU 0.5, by the area under the curve.
        map: by the area, mean over IoU 0.50 … 0.95.
        categories: category → `map50_voc07` of it.
        images: number of evaluated images.
        prompts: number of their boxes.
    """

    map50_voc07: float
    map50: float
    map: float
    categories: Mapping[str, float]
    images: int = 0
    prompts: int = 0
