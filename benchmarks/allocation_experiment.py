"""Evaluate float, uniform and mixed models on photographs, for every objective: the tables of docs/experiments.md.

    python -m benchmarks.allocation_experiment --coco ../shared/data/coco-mini --output docs/data/allocation.json

Calibrates on train2017, evaluates on val2017 with ground-truth boxes. Every plan's evaluation is cached, so that
a stopped run resumes. Takes about 50 minutes on 2 cores.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixqsam.allocation.budget import Budget
from mixqsam.cli.bars import ProgressBars
from mixqsam.evaluation.evaluate import evaluate
from mixqsam.files import Cache, digest, write_json
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, Data, QuantizationOptions, Session
from mixqsam.pipeline.stages import analyze_model, calibration_samples, find_ranges, quantize_model, run_allocation
from mixqsam.plan import CANDIDATE_BITS, Analysis, BitPlan
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor

if TYPE_CHECKING:
    from mixqsam.data.samples import Sample

BUDGETS = ("W6A6", "W5A5", "W4A4", "W3A3")
LAMBDAS = (0.1, 0.3, 1.0)
# How many quantized models are evaluated at once, beside one float model.
TOGETHER = 12


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        label: label in the table.
        options: options of the allocation; None for uniform bits.
        images: number of images of the analysis; None for all.
        measured_at: bit-widths at which the sensitivity was measured.
    """

    label: str
    options: AllocationOptions | None
    images: int | None = None
    measured_at: tuple[int, ...] = CANDIDATE_BITS


def rows() -> Iterator[Row]:
    """All objectives that are compared."""
    yield Row("uniform", None)
    for output in ("bernoulli", "spatial"):
        for utility in ("linear", "exponential", "measured"):
            for free in (False, True):
                bits = "free" if free else "tied"
                yield Row(f"{bits}", AllocationOptions(output, utility, synergy_weight=0.0, tied=not free))
            for synergy in ("proximity", "interaction"):
                for coupling in LAMBDAS:
                    yield Row("tied", AllocationOptions(output, utility, synergy=synergy, synergy_weight=coupling))


def paper_rows(budget: str) -> Iterator[Row]:
    """The paper's definition: u(b) = b, proximity, bits within two of the target."""
    target = int(budget[1])
    near = tuple(b for b in CANDIDATE_BITS if abs(b - target) <= 2)
    for output in ("bernoulli", "spatial"):
        for coupling in (0.0, 0.1, 1.0):
            yield Row("paper", AllocationOptions(output, "linear", synergy_weight=coupling, candidates=near))


def cheap_rows() -> Iterator[Row]:
    """The measured utility from fewer bit-widths and fewer images, which cost less to measure."""
    for free in (False, True):
        options = AllocationOptions("bernoulli", "measured", synergy_weight=0.0, tied=not free)
        bits = "free" if free else "tied"
        for measured_at in ((2, 4, 8), (4,)):
            yield Row(f"{bits}, measured at {measured_at}", options, measured_at=measured_at)
    for images in (2, 4, 8):
        yield Row(f"free, {images} images", options, images=images)


class Experiment:
    """Data, model and its analysis."""

    def __init__(self, coco: Path, *, images: int, session: Session, limit: int | None) -> None:
        self.session = session
        self.annotations = coco / "annotations/instances_val2017.json"
        self.sam: Sam = load_sam("sam-tiny")
        options = AnalysisOptions(count=images, sensitivity_bits=CANDIDATE_BITS)
        train = Data(coco / "train2017", coco / "annotations/instances_train2017.json")
        calibration = calibration_samples(train, options, session)
        ranges = find_ranges(self.sam, calibration, observer="omse", session=session)
        self._calibration, self._options = calibration, options
        val = Data(coco / "val2017", self.annotations)
        self.samples: Sequence[Sample] = val.samples(count=None, progress=session.progress)[:limit]
        self._key = digest(2, self.sam.fingerprint, digest(ranges.to_json()), [s.digest() for s in self.samples])

    def analysis(self, *, images: int | None, measured_at: tuple[int, ...] = CANDIDATE_BITS) -> Analysis:
        """The analysis of the first `images` images, with the sensitivity at these bits only."""
        samples = self._calibration[:images]
        full = analyze_model(self.sam, samples, options=self._options, session=self.session)
        columns = [full.sensitivity_bits.index(b) for b in measured_at]
        thinned = {output: values[..., columns] for output, values in full.sensitivity.items()}
        return replace(full, sensitivity=thinned, sensitivity_bits=measured_at)

    def quantized(self, plan: BitPlan) -> Sam:
        """The model at a plan's bits, rounded to nearest."""
        return quantize_model(
            self.sam, plan, self._calibration, options=QuantizationOptions("omse"), session=self.session
        ).sam

    def evaluate(self, plans: Sequence[BitPlan]) -> list[dict[str, Any]]:
        """Scores of plans, from the cache if possible; the float model is the reference."""
        keys = [digest(self._key, plan.to_json()) for plan in plans]
        cache = self.session.cache
        new = [i for i, key in enumerate(keys) if cache.get("scores", key) is None]
        new = list({keys[i]: i for i in new}.values())
        for start in range(0, len(new), TOGETHER):
            some = new[start : start + TOGETHER]
            predictors = {"float": SamPredictor(self.sam)}
            for i in some:
                predictors[str(i)] = SamPredictor(self.quantized(plans[i]))
            reports = evaluate(predictors, self.samples, annotations=self.annotations, progress=self.session.progress)
            for i in some:
                cache.put("scores", keys[i], reports[str(i)].to_json())
        return [cache.get("scores", key) or {} for key in keys]


def run(experiment: Experiment, budgets: Sequence[str]) -> dict[str, Any]:
    """All rows at all budgets."""
    full = experiment.analysis(images=None)
    entries: list[dict[str, Any]] = []
    plans: list[BitPlan] = [full.costs.float_plan]
    for budget in budgets:
        for row in [*rows(), *paper_rows(budget), *cheap_rows()]:
            analysis = experiment.analysis(images=row.images, measured_at=row.measured_at)
            text = f"uniform:{budget}" if row.options is None else budget
            allocation = run_allocation(
                analysis,
                Budget.parse(text),
                options=row.options or AllocationOptions(),
                session=experiment.session,
            )
            objective = row.options.objective if row.options else None
            entries.append(
                {
                    "budget": budget,
                    "bits": row.label,
                    "output": objective.output if objective else "",
                    "utility": objective.utility if objective else "",
                    "synergy": objective.synergy if objective and objective.coupling else "",
                    "lambda": objective.coupling if objective else 0.0,
                    "size": allocation.size,
                    "bitops": allocation.bitops,
                    "gap": allocation.gap,
                    "seconds": allocation.seconds,
                }
            )
            plans.append(allocation.plan)
    scores = experiment.evaluate(plans)
    for entry, score in zip(entries, scores[1:], strict=True):
        entry.update(score)
    return {"model": full.model, "calibration_images": full.images, "float": scores[0], "rows": entries}


def main() -> None:
    """Parse arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/data/allocation.json"))
    parser.add_argument("--cache", type=Path, default=Path("out/experiment-cache"))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--limit", type=int, default=None, help="maximum number of images for the evaluation")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS))
    arguments = parser.parse_args()
    session = Session(Cache(arguments.cache), ProgressBars())
    experiment = Experiment(arguments.coco, images=arguments.images, session=session, limit=arguments.limit)
    write_json(arguments.output.with_name("analysis.json"), experiment.analysis(images=None).to_json())
    write_json(arguments.output, run(experiment, arguments.budgets))


if __name__ == "__main__":
    main()
