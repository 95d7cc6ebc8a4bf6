"""Fisher sensitivity against the measured one: rank correlation, quality of the allocations, seconds of an image.

    python -m benchmarks.fisher --model sam-tiny --coco ../shared/data/coco-mini
    python -m benchmarks.fisher --table     # print what is known, and measure nothing

Analyses images from the 25th of val2017 on, rounds to nearest (`omse`), and judges on the first 24, by the mean IoU
with the float model's masks (ground-truth boxes). Each image's measurements and each model's score are kept, so that a
stopped run goes on where it was. About 15 minutes for sam-tiny on a free core, most of it for what `measured` needs.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.compensation import Judge
from benchmarks.harness import machine
from mixqsam.allocation.budget import Budget
from mixqsam.analysis.ablation import ablate
from mixqsam.analysis.fisher import FisherMeter, alike, steady
from mixqsam.analysis.sensitivity import QuantizedVariants
from mixqsam.analysis.variants import run_prefix
from mixqsam.cli.bars import ProgressBars
from mixqsam.data.samples import Sample, draw_calibration_samples
from mixqsam.files import Cache, digest, read_json, write_json
from mixqsam.measurements import Analysis
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, Data, QuantizationOptions, Session
from mixqsam.pipeline.stages import analyze_model, find_ranges, quantize_model, run_allocation
from mixqsam.plan import CANDIDATE_BITS, BitPlan, Vector
from mixqsam.progress import Silent
from mixqsam.sam.load import Sam, load_sam

_JUDGED, _SEEN = 24, 50
_BUDGETS = ("W8A8", "W6A6", "W4A4", "W3A3")
_UTILITIES = ("exponential", "measured", "fisher")
# Below this a divergence is the rounding of float32 logits.
_NOISE = 1e-10
_VERSION = 2


class Experiment:
    """A model, its images, and what is known of them."""

    def __init__(self, arguments: argparse.Namespace, session: Session) -> None:
        self.session, self.bits = session, tuple(arguments.measured_bits)
        self.sam: Sam = load_sam(arguments.model)
        val = Data(arguments.coco / "val2017", arguments.coco / "annotations/instances_val2017.json")
        everything = val.samples(count=None, progress=session.progress)
        self.samples = self._some(everything[_JUDGED:_SEEN], arguments.count)
        self.judged = self._some(everything[:_JUDGED], arguments.judged)
        self.ranges = find_ranges(self.sam, self.samples, observer="omse", session=session)
        self.weights = session.grids.of(self.sam, observer="omse")
        self.utilities: Sequence[str] = arguments.utilities
        self._draws: int = arguments.draws
        self._judge: Judge | None = None
        images = [sample.digest() for sample in self.samples]
        self._key = digest(_VERSION, self.sam.fingerprint, images, [sample.digest() for sample in self.judged])

    def _some(self, samples: Sequence[Sample], count: int) -> list[Sample]:
        return draw_calibration_samples(samples, count=count, prompts=4, progress=self.session.progress)

    def analysis(self) -> Analysis:
        """Importance and measured sensitivity, as far as the utilities that are compared need them."""
        options = AnalysisOptions(
            importance="exponential" in self.utilities,
            pairs=False,
            sensitivity_bits=self.bits if "measured" in self.utilities else (),
            fisher=(),
        )
        return analyze_model(self.sam, self.samples, options=options, session=self.session)

    def draws(self) -> Vector:
        """Fisher estimates and their diagonal parts, [2, images, draws, units, 2, bits]."""
        meter, found = FisherMeter(self.sam, self.ranges, self.weights), []
        for sample in self.session.progress.track(self.samples, label="Fisher", total=len(self.samples)):
            key = digest(_VERSION, self.sam.fingerprint, sample.digest(), digest(self.ranges.to_json()), self._draws)
            values = self.session.cache.get("fisher-draws", key)
            if values is None:
                values = meter.measure(sample, output="bernoulli", draws=self._draws).tolist()
                self.session.cache.put("fisher-draws", key, values)
            found.append(values)
        return np.array(found).swapaxes(0, 1)

    def score(self, plan: BitPlan) -> float:
        """Mean IoU with the float masks."""
        key = digest(self._key, plan.to_json())
        found = self.session.cache.get("fisher-score", key)
        if found is None:
            self._judge = self._judge or Judge(self.sam, self.judged)
            options = QuantizationOptions("omse")
            model = quantize_model(self.sam, plan, self.samples, options=options, session=self.session).sam
            found = self._judge(model)
            self.session.cache.put("fisher-score", key, found)
        return float(found["iou"])


def correlations(measured: Vector, measured_at: Sequence[int], draws: Vector) -> list[dict[str, Any]]:
    """For numbers of draws: rank correlation with the measured KL and ratio to it, over all bits and at each.

    Args:
        measured: [units, 2, bits].
        measured_at: the bits.
        draws: [2, images, draws, units, 2, bits].
    """
    places = [CANDIDATE_BITS.index(b) for b in measured_at]
    rows = []
    for count in (count for count in (1, 2, 4, 8) if count <= draws.shape[2]):
        estimated = steady(*alike(draws[:, :, :count].mean(axis=2).swapaxes(0, 1)))[..., places]
        pieces = {"all": (measured, estimated)}
        pieces |= {str(b): (measured[..., i], estimated[..., i]) for i, b in enumerate(measured_at)}
        for name, (truth, estimate) in pieces.items():
            clear = truth > _NOISE
            rows.append(
                {
                    "draws": count,
                    "bits": name,
                    "rank": float(spearmanr(truth.ravel(), estimate.ravel()).statistic),
                    "ratio": float(np.median(estimate[clear] / truth[clear])),
                }
            )
    return rows


def allocations(experiment: Experiment, draws: Vector, budgets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Each budget by each utility, and uniform."""
    known = experiment.analysis()
    variants: list[tuple[str, str, Analysis]] = [("uniform", "exponential", known)]
    variants += [(name, name, known) for name in experiment.utilities if name != "fisher"]
    if "fisher" in experiment.utilities:
        for count in sorted({1, draws.shape[2]}):
            images = draws[:, :, :count].mean(axis=2).swapaxes(0, 1)
            label = f"{count} draw{'s' if count > 1 else ''}"
            for name, values in (("fisher as drawn", images[:, 0].mean(axis=0)), ("fisher", steady(*alike(images)))):
                variants.append((f"{name}, {label}", "fisher", replace(known, fisher={"bernoulli": values})))
    for budget in budgets:
        for label, utility, analysis in variants:
            text = f"uniform:{budget}" if label == "uniform" else budget
            options = AllocationOptions(utility=utility)  # type: ignore[arg-type]
            found = run_allocation(analysis, Budget.parse(text), options=options, session=experiment.session)
            iou = experiment.score(found.plan)
            experiment.session.progress.note(f"{budget} {label}: IoU {iou:.4f}")
            yield {"budget": budget, "utility": label, "iou": iou, "size": found.size, "bitops": found.bitops}


def seconds(experiment: Experiment, utilities: Sequence[str]) -> dict[str, float]:
    """CPU seconds of one image on one thread; grids of weights are searched before."""
    sam, sample = experiment.sam, experiment.samples[0]
    names = [unit.name for unit in sam.costs().units]
    meter = FisherMeter(sam, experiment.ranges, experiment.weights)
    found = {"plain pass": _cpu(lambda: run_prefix(sam, sample))}
    meter.measure(sample, output="bernoulli", draws=1)
    found["fisher, 1 draw"] = _cpu(lambda: meter.measure(sample, output="bernoulli", draws=1))
    if "exponential" in utilities:
        found["importance by ablation"] = _cpu(
            lambda: ablate(sam, run_prefix(sam, sample), names=names, pairs=[], progress=Silent())
        )
    if "measured" in utilities:
        variants = QuantizedVariants(sam, experiment.ranges, experiment.weights, bits=(2, 4, 8))
        found["measured at 2, 4, 8 bits"] = _cpu(
            lambda: variants.measure(sam, run_prefix(sam, sample), progress=Silent())
        )
    return found


def _cpu(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def run(arguments: argparse.Namespace) -> None:
    """Measure what is not known yet; write after each step."""
    session = Session(Cache(arguments.cache, wait_for_locks=True), ProgressBars())
    experiment = Experiment(arguments, session)
    draws = experiment.draws()
    result: dict[str, Any] = {"images": len(experiment.samples), "judged": len(experiment.judged)}
    result["seconds"] = _timed(experiment, arguments)
    record(arguments, result)
    known = experiment.analysis()
    if known.sensitivity:
        result["correlations"] = correlations(known.sensitivity["bernoulli"], known.sensitivity_bits, draws)
        record(arguments, result)
    result["allocations"] = []
    for row in allocations(experiment, draws, arguments.budgets):
        result["allocations"].append(row)
        record(arguments, result)


def _timed(experiment: Experiment, arguments: argparse.Namespace) -> dict[str, float]:
    key = digest(_VERSION, experiment.sam.fingerprint, arguments.timed)
    found: dict[str, float] | None = experiment.session.cache.get("fisher-seconds", key)
    if found is None:
        found = seconds(experiment, arguments.timed)
        experiment.session.cache.put("fisher-seconds", key, found)
    return found


def record(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Put a model's results into the file, in the place of older ones."""
    known = read_json(arguments.output, what="results of this script") if arguments.output.exists() else {"models": {}}
    models = known["models"] | {str(arguments.model): result}
    write_json(arguments.output, {"machine": machine(), "models": models})


def table(path: Path) -> Iterator[str]:
    """Markdown tables of all that is known."""
    for model, found in read_json(path, what="results of this script")["models"].items():
        rows = found.get("allocations", [])
        budgets = list(dict.fromkeys(row["budget"] for row in rows))
        yield f"| {model}: IoU with float | " + " | ".join(budgets) + " |"
        yield "|---|" + "---:|" * len(budgets)
        cells = {(row["utility"], row["budget"]): row["iou"] for row in rows}
        for utility in dict.fromkeys(row["utility"] for row in rows):
            shown = (f"{cells[utility, b]:.3f}" if (utility, b) in cells else "–" for b in budgets)
            yield f"| {utility} | " + " | ".join(shown) + " |"
        yield ""
        kinds = list(dict.fromkeys(row["bits"] for row in found.get("correlations", [])))
        if kinds:
            yield "| draws | " + " | ".join("all bits" if k == "all" else f"{k} bits" for k in kinds) + " |"
            yield "|---:|" + "---:|" * len(kinds)
        by_draws: dict[int, list[str]] = {}
        for row in found.get("correlations", []):
            by_draws.setdefault(row["draws"], []).append(f"{row['rank']:.3f} (×{row['ratio']:.2f})")
        for count, cell in by_draws.items():
            yield f"| {count} | " + " | ".join(cell) + " |"
        yield ""
        for name, value in found["seconds"].items():
            yield f"- {name}: {value:.1f} s"
        yield ""


def main() -> None:
    """Parse arguments; measure and write, or print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="sam-tiny")
    parser.add_argument("--coco", type=Path, default=Path("../shared/data/coco-mini"))
    parser.add_argument("--table", action="store_true", help="print what is known, and measure nothing")
    parser.add_argument("--output", type=Path, default=Path("docs/data/fisher.json"))
    parser.add_argument("--cache", type=Path, default=Path("out/experiment-cache"))
    parser.add_argument("--count", type=int, default=4, help="images to analyse")
    parser.add_argument("--draws", type=int, default=8, help="of y for each image")
    parser.add_argument("--judged", type=int, default=_JUDGED, help="images to judge on")
    parser.add_argument("--budgets", nargs="+", default=list(_BUDGETS))
    parser.add_argument("--utilities", nargs="+", default=list(_UTILITIES), choices=_UTILITIES)
    parser.add_argument("--timed", nargs="+", default=list(_UTILITIES), choices=_UTILITIES)
    parser.add_argument("--measured-bits", nargs="+", type=int, default=list(CANDIDATE_BITS))
    arguments = parser.parse_args()
    if not arguments.table:
        run(arguments)
    print("\n".join(table(arguments.output)))


if __name__ == "__main__":
    main()
