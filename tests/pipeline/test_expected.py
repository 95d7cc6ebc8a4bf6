"""The quality to expect of a model that was not made."""

import pytest

from mixqsam.allocation.budget import Limits
from mixqsam.allocation.choose import Allocation
from mixqsam.pipeline.expected import describe_curve
from mixqsam.plan import BitPlan
from mixqsam.reporting.record import Search, TriedSize

TRIED = [(6e6, 2e9, 0.90), (7e6, 3e9, 0.94), (7.5e6, 3e9, 0.93), (8e6, 4e9, 0.98)]
SEARCH = Search(
    metric="iou",
    target=0.95,
    size=8e6,
    reached=True,
    tried=[TriedSize(size=size, bitops=bitops, quality=quality) for size, bitops, quality in TRIED],
    images=5,
    prompts=20,
)


def describe(size: float, bitops: float = 9e9) -> str:
    allocation = Allocation(BitPlan({}), Limits("", size, None), None, size, bitops)
    return describe_curve(SEARCH, allocation, recipe="compensated")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (5e6, "less than 0.900 IoU with the float masks, which 6.00 MB has."),
        (6e6, "about 0.900 IoU with the float masks, between 6.00 MB (0.900) and 7.00 MB (0.940)."),
        # The size that is larger and worse than another is left out.
        (7.5e6, "about 0.960 IoU with the float masks, between 7.00 MB (0.940) and 8.00 MB (0.980)."),
        (9e6, "at least 0.980 IoU with the float masks, which 8.00 MB has."),
    ],
)
def test_measured_sizes_are_interpolated_and_named(size: float, words: str) -> None:
    assert describe(size) == f"Expected quality, from sizes measured on 5 images (recipe compensated): {words}"


def test_fewer_bitops_than_measured_are_told() -> None:
    assert describe(6.5e6, 1e9).endswith("Expect less: the measured models have more BitOps (2 G).")
    assert "Expect less" not in describe(6.5e6, 2e9)
