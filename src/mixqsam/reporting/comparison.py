"""The comparison of recipes, budgets and bits: its rows, and its CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mixqsam.prompts import describe_basis

Mode = Literal["float", "uniform", "mixed"]


@dataclass(frozen=True)
class DetectorFigures:
    """Quality of a model on the boxes of one detector.

    Attributes:
        ap: COCO mask AP in percent; None without annotations.
        mean_iou: mean IoU with the float model's masks.
    """

    ap: float | None
    mean_iou: float


@dataclass(frozen=True)
class DetectorBoxes:
    """Boxes of one detector that models are judged on.

    Attributes:
        images: number of images with a box.
        prompts: number of boxes.
    """

    images: int
    prompts: int


@dataclass(frozen=True)
class Row:
    """One quantized model.

    Attributes:
        recipe, budget, mode: how it was quantized.
        bits: bits of a uniform model, e.g. W4A4.
        size: bytes.
        bitops: BitOps per image.
        ap: COCO mask AP in percent; None without annotations.
        truth_iou: mean IoU with annotated masks; None without them.
        mean_iou: mean IoU with the float model's masks.
        seconds: time of the quantization, without the cache.
        by_detector: detector's name → quality on its boxes, whose means are then `ap` and `mean_iou`; empty where boxes
            have no names.
    """

    recipe: str
    budget: str
    mode: Mode
    bits: str
    size: float
    bitops: float
    ap: float | None
    truth_iou: float | None
    mean_iou: float
    seconds: float
    by_detector: Mapping[str, DetectorFigures] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All models of a comparison.

    Attributes:
        model: the float model.
        calibration, evaluation: numbers of images.
        float_row: the float model; its `mean_iou` is 1.
        rows: the quantized models.
        settings: other settings for the reader.
        prompts: number of prompts of the evaluation; 0 in comparisons of earlier versions.
        prompt_kind: kind of these prompts, e.g. `grid points`.
        detectors: detector's name → its boxes; empty where boxes have no names.
    """

    model: str
    calibration: int
    evaluation: int
    float_row: Row
    rows: Sequence[Row]
    settings: Mapping[str, Any]
    prompts: int = 0
    prompt_kind: str = ""
    detectors: Mapping[str, DetectorBoxes] = field(default_factory=dict)

    @property
    def has_ap(self) -> bool:
        """Whether masks were scored against annotations."""
        return self.float_row.ap is not None

    @property
    def basis(self) -> str:
        """The images and prompts of the evaluation, in words."""
        if not self.prompts:
            return f"{self.evaluation:,} images"
        return describe_basis(self.evaluation, self.prompts, self.prompt_kind)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {"format": "mixqsam-comparison", "version": 1, **asdict(self)}


def to_csv(comparison: Comparison) -> str:
    """Write one line for each model, the float model first; each detector has columns of its own."""
    lines = [_flatten(row) for row in (comparison.float_row, *comparison.rows)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _flatten(row: Row) -> dict[str, Any]:
    values = asdict(row)
    by_detector = values.pop("by_detector")
    return values | {f"{key} {name}": value for name, found in by_detector.items() for key, value in found.items()}


def list_budgets(comparison: Comparison) -> list[str]:
    """The budgets, in the order of the rows."""
    return list(dict.fromkeys(row.budget for row in comparison.rows))


def group_rows(comparison: Comparison) -> list[tuple[str, Mode, dict[str, Row]]]:
    """Recipe, kind of bits, and the row of each budget."""
    groups: dict[tuple[str, Mode], dict[str, Row]] = {}
    for row in comparison.rows:
        groups.setdefault((row.recipe, row.mode), {})[row.budget] = row
    return [(recipe, mode, rows) for (recipe, mode), rows in groups.items()]
