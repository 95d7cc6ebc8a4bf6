"""Targets of quality in budgets: what is understood, and what is refused with a suggestion."""

import pytest

from mixqsam.allocation.budget import Amount, Budget, UniformCosts
from mixqsam.allocation.choose import allocate, find_size_span
from mixqsam.allocation.program import Objective
from mixqsam.allocation.quality import QualityTarget
from mixqsam.errors import BudgetError
from mixqsam.measurements import Analysis
from mixqsam.plan import BitPlan, UnitBits
from mixqsam.sam.load import Sam


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("iou>=0.98", QualityTarget("iou", 0.98)),
        (" IoU >= .9 ", QualityTarget("iou", 0.9)),
        ("iou>=98%", QualityTarget("iou", 0.98)),
        ("iou≥1", QualityTarget("iou", 1.0)),
        ("ap>=0.97x", QualityTarget("ap", 0.97)),
        ("ap>=97%", QualityTarget("ap", 0.97)),
    ],
)
def test_targets_are_understood(text: str, target: QualityTarget) -> None:
    budget = Budget.parse(text)
    assert budget.quality is not None
    assert budget.quality.metric == target.metric
    assert budget.quality.value == pytest.approx(target.value)
    assert (budget.terms, budget.uniform, budget.text) == ((), None, text.strip())
    again = Budget.parse(str(budget.quality)).quality
    assert again == budget.quality


def test_a_target_goes_with_limits() -> None:
    budget = Budget.parse("5.5MB, iou>=0.9, W6A6")
    assert budget.quality == QualityTarget("iou", 0.9)
    assert budget.terms == (Amount("size", 5.5e6), UniformCosts(UnitBits(6, 6)))
    tried = budget.with_size(4e6)
    assert tried.quality is None
    assert tried.terms[-1] == Amount("size", 4e6)
    assert tried.text == budget.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("iou>=1.2", "more than an IoU of 1"),
        ("ap>=1.05x", "more than the float model's AP"),
        ("iou>=0", "above 0"),
        ("ap>=0x", "above 0"),
        ("ap>=0.97", "did you mean ap>=0.97x?"),
        ("ap>=35", "did you mean ap>=0.97x?"),
        ("iou>=0.9x", "write iou>=0.9"),
        ("iou>0.9", "did you mean iou>=0.9?"),
        ("iou=0.9", "did you mean iou>=0.9?"),
        ("iou<=0.9", "did you mean iou>=0.9?"),
        ("iou>=", "write iou>=0.98"),
        # A shell makes this of iou>=0.98 without quotes.
        ("iou", 'quotes: --budget "iou>=0.98"'),
        ("iou>=good", "write iou>=0.98"),
        ("iou>=1e-1", "write iou>=0.98"),
        ("dice>=0.9", "the metric 'dice' is unknown; choose iou (mean IoU with the float masks, e.g. iou>=0.98), ap"),
        ("size<=5MB", "choose iou"),
        ("iou>=0.9,ap>=0.97x", "several targets"),
        ("uniform:W4A4,iou>=0.9", "cannot be understood"),
    ],
)
def test_targets_that_cannot_be_are_refused_with_a_suggestion(text: str, words: str) -> None:
    with pytest.raises(BudgetError) as refused:
        Budget.parse(text)
    assert words in str(refused.value)


def test_sizes_make_a_difference_between_the_fewest_and_the_most_bits(sam: Sam) -> None:
    costs = sam.costs()
    low, high = find_size_span(costs, Budget.parse("iou>=0.9"), candidates=(2, 4, 8), tied=True, keep=())
    assert low == costs.size(BitPlan.uniform(costs.units, UnitBits(2, 2)))
    assert high == costs.size(BitPlan.uniform(costs.units, UnitBits(8, 8)))
    middle = (low + high) / 2
    assert (
        find_size_span(costs, Budget.parse(f"iou>=0.9,{middle}B"), candidates=(2, 8), tied=True, keep=())[1] == middle
    )
    # The fewest bits with kept units: these cannot get fewer.
    kept, _ = find_size_span(costs, Budget.parse("iou>=0.9"), candidates=(2, 8), tied=True, keep=("neck.*=8",))
    assert kept > low


def test_an_allocation_alone_cannot_keep_a_quality(sam: Sam) -> None:
    analysis = Analysis("model", 1, sam.costs(), {}, {}, {}, (), {})
    with pytest.raises(BudgetError, match="`mixqsam quantize` takes it"):
        allocate(analysis, Budget.parse("iou>=0.9"), objective=Objective("bernoulli", "fisher", "proximity", 0.0))
