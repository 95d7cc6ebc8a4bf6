"""Options of the choice of bits; this module loads neither torch nor numpy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from mixqsam.errors import BudgetError
from mixqsam.options import names
from mixqsam.options.bit_widths import parse_candidates, write_bits
from mixqsam.options.fields import Option
from mixqsam.options.values import OptionClass, quote

if TYPE_CHECKING:
    from mixqsam.allocation.budget import Budget
    from mixqsam.allocation.program import Objective

_ALLOCATION = "Allocation"


def parse_budget(value: Any, label: str) -> "Budget":
    """Parse a budget from its text.

    Raises:
        BudgetError: the text is not a budget.
    """
    from mixqsam.allocation.budget import Budget  # noqa: PLC0415  (loads numpy)

    if not isinstance(value, str | Budget):
        raise BudgetError(f"{label} {quote(value)}: a text is expected, e.g. 'W4A4' or '12.5MB'.")
    return Budget.parse(value)


def _check_rule(value: Any, label: str) -> str:
    """Check a rule that fixes bits.

    Raises:
        BudgetError: the text is not a rule.
    """
    from mixqsam.allocation.budget import split_rule  # noqa: PLC0415  (loads numpy)

    if not isinstance(value, str):
        raise BudgetError(f"{label} {quote(value)}: a text is expected, e.g. 'neck.*=8'.")
    split_rule(value)
    return value


# A budget is a value of `mixqsam.allocation.budget`, which loads numpy.
BudgetValue = Annotated[
    Any,
    Option(
        "W4A4 (what that uniform model costs), 12.5MB, 0.2x, bitops=3T, bitops=0.03x; separate several by commas. "
        "latency<=0.6s@openvino or latency<=0.8x@onnx limits the time on this machine. "
        "iou>=0.98 or ap>=0.97x searches the smallest model of this quality. uniform:W4A4 gives all units the same "
        "bits.",
        flags=("--budget", "-b"),
        parse=parse_budget,
        write=str,
    ),
]


@dataclass(frozen=True)
class AllocationOptions(OptionClass):
    """Options of the choice of bits; docs/experiments.md explains the defaults.

    Attributes:
        output_distribution: P_Y definition.
        utility: u(b).
        synergy: estimator.
        synergy_weight: λ.
        tied: one bit-width for a unit's weight and activation.
        candidates: bit-widths to choose from; None for `choices`.
        keep: fixed bits by pattern.
        prompts_per_image: prompts in the BitOps; None for those of the analysis.
        time_limit: maximum seconds of the solver.
    """

    output_distribution: Annotated[
        names.OutputDistribution,
        Option("Distribution of the model's output, P_Y.", panel=_ALLOCATION, is_advanced=True),
    ] = "bernoulli"
    utility: Annotated[
        names.Utility,
        Option("Utility of b bits, u(b); linear is the paper's.", panel=_ALLOCATION, is_advanced=True),
    ] = "fisher"
    synergy: Annotated[
        names.Synergy,
        Option(
            "Estimator of the synergy of neighbours; proximity is the paper's.", panel=_ALLOCATION, is_advanced=True
        ),
    ] = "proximity"
    synergy_weight: Annotated[
        float,
        Option(
            "Weight of the synergy, λ; 1 is as strong as the utility.",
            panel=_ALLOCATION,
            minimum=0,
            is_advanced=True,
        ),
    ] = 0.0
    tied: Annotated[
        bool,
        Option(
            "Give weight and activation of a unit the same bits, or choose them apart.",
            flags=("--tied/--free",),
            panel=_ALLOCATION,
            is_advanced=True,
        ),
    ] = False
    candidates: Annotated[
        tuple[int, ...] | None,
        Option(
            "Bit-widths to choose from, e.g. 2-8 or 2,4,8,16. 16 means half precision for weights, float for "
            "activations.",
            panel=_ALLOCATION,
            is_list=True,
            parse=parse_candidates,
            write=write_bits,
            is_advanced=True,
            default_help="2-8,16; 2-8 with --tied",
        ),
    ] = None
    keep: Annotated[
        tuple[str, ...],
        Option(
            "Fix bits by pattern: 'neck.*=8', '*.av=W8A8', 'neck.*=16', '*=float'.",
            panel=_ALLOCATION,
            parse=_check_rule,
            is_advanced=True,
        ),
    ] = ()
    prompts_per_image: Annotated[
        int | None,
        Option(
            "Prompts per image that the BitOps count.",
            panel=_ALLOCATION,
            minimum=1,
            is_advanced=True,
            default_help="those of the analysis, or 1",
        ),
    ] = None
    time_limit: Annotated[
        float, Option("Maximum number of seconds for solving.", panel=_ALLOCATION, minimum=1, is_advanced=True)
    ] = 50.0

    @property
    def choices(self) -> tuple[int, ...]:
        """The bit-widths to choose from: the candidates, or 2 to 8, and 16 where the bits are not tied."""
        if self.candidates is not None:
            return self.candidates
        return names.CANDIDATE_BITS if self.tied else names.UNIT_BITS

    @property
    def objective(self) -> "Objective":
        """The objective of the program."""
        from mixqsam.allocation.program import Objective  # noqa: PLC0415  (loads numpy)

        return Objective(self.output_distribution, self.utility, self.synergy, self.synergy_weight)
