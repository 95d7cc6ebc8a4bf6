"""The sentences at the top of the report, and the prompts by their IoU."""

from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from mixqsam.reporting.histogram import BINS, count_ious, histogram_svg
from mixqsam.reporting.record import EvaluationImages, Figures, Run
from mixqsam.reporting.verdict import describe_verdict

SVG = "{http://www.w3.org/2000/svg}"
IMAGES = EvaluationImages(images=8, prompts=40, kind="annotated boxes", seen=False, digest="")
FLOAT = Figures(size=20e6, bitops=8e9, ap=26.9)
UNIFORM = Figures(bits="W4A4", size=4e6, bitops=1e9, mean_iou=0.7)
MIXED = Figures(size=4e6, bitops=1e9, mean_iou=0.95, mean_iou_interval=(0.93, 0.97), ap=26.8)
SIZE = "The model takes 4.00 MB instead of 20.00 MB, 5.0 times less than in float."


def make_run(check: EvaluationImages | None, **models: Figures) -> Run:
    values: dict[str, Any] = {name: {} for name in ("versions", "machine", "seconds")}
    return Run(
        command="", finished="", recipe="", file_bytes=0, check=check, models={"float": FLOAT, **models}, **values
    )


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (make_run(None, mixed=MIXED.model_copy(update={"mean_iou": None})), f"{SIZE} The quality was not measured."),
        (
            make_run(IMAGES, mixed=MIXED, uniform=UNIFORM),
            f"{SIZE} The masks agree with the float model's at a mean IoU of 0.950 (95% interval 0.930 to 0.970). "
            "AP is 26.8 instead of 26.9. Uniform W4A4 within the same budget agrees at 0.700.",
        ),
        (
            make_run(IMAGES.model_copy(update={"seen": True}), uniform=UNIFORM),
            f"{SIZE} The masks agree with the float model's at a mean IoU of 0.700. The calibration used the same "
            "images.",
        ),
    ],
)
def test_the_verdict_says_what_was_gained_and_what_it_cost(run: Run, words: str) -> None:
    assert describe_verdict(run) == words


def test_ious_are_counted_from_0_to_1() -> None:
    counts = count_ious([0.0, 0.049, 0.05, 0.5, 0.999, 1.0])
    assert len(counts) == BINS == 20
    assert (counts[0], counts[1], counts[10], counts[19], sum(counts)) == (2, 1, 1, 2, 6)


def test_each_bin_with_prompts_has_a_bar_and_the_highest_fills_the_picture() -> None:
    models = {"uniform": count_ious([0.1, 0.9]), "mixed": count_ious([0.9, 0.92, 0.93, 1.0])}
    root = ElementTree.fromstring(histogram_svg(models))  # noqa: S314  (our own text)
    bars = list(root.iter(f"{SVG}rect"))
    assert sorted(str(bar.get("class")) for bar in bars) == ["mixed", "mixed", "uniform", "uniform"]
    heights = [float(str(bar.get("height"))) for bar in bars]
    assert max(heights) == pytest.approx(3 * min(heights), abs=0.2)
    titles = [title.text for bar in bars for title in bar.iter(f"{SVG}title")]
    assert "mixed: 3 prompts with IoU 0.90 to 0.95" in titles
    # Bars of one bin stand beside each other.
    places = sorted((float(str(bar.get("x"))), float(str(bar.get("width")))) for bar in bars)
    assert all(x + width <= following for (x, width), (following, _) in pairwise(places))
