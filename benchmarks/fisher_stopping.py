"""Would the Fisher analysis do with fewer images? How the allocation converges, image by image.

    python -m benchmarks.fisher_stopping --coco ../shared/data/coco-mini
    python -m benchmarks.fisher_stopping --table     # print what is known, and measure nothing

`quantize` measures one draw on each of 32 images. Here the bits are also chosen after every few of these images, in
some random orders. Each choice is compared with that of all 32: by the share of operands with other bits, and by its
expected cost. `own` is the cost by the analysis of all 32 images, `other` by one of images that no choice has seen.
Both are relative to the cost of the choice of all 32. Rules that stop when the bits hardly change are tried, too.

Measured images are cached. About four minutes for sam-tiny on a free core.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from benchmarks.harness import machine
from benchmarks.performance_tables import line, machine_line
from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.program import interpolate
from mixqsam.analysis.fisher import alike, measure_images, steady
from mixqsam.cli.bars import ProgressBars
from mixqsam.data.samples import Sample, draw_calibration_samples
from mixqsam.files import Cache, default_cache, read_json, write_json
from mixqsam.measurements import Analysis
from mixqsam.pipeline.options import AllocationOptions, Data, Session
from mixqsam.pipeline.recipe_analysis import adapt_analysis
from mixqsam.pipeline.stages import choose_bits, find_ranges
from mixqsam.plan import CANDIDATE_BITS, BitPlan, Vector
from mixqsam.quantization.recipes import find_recipe
from mixqsam.sam.load import Sam, load_sam

_BUDGETS = ("W6A6", "W4A4", "W3A3")
_IMAGES, _GROUP, _RECIPE = 32, 4, "compensated"
# Rules: at most this share of operands changes, in this number of consecutive groups.
_RULES = ((0.02, 1), (0.05, 1), (0.05, 2), (0.1, 1), (0.1, 2), (0.1, 3))


class Experiment:
    """Analyses of some of the job's images, and of others."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.session = Session(Cache(arguments.cache, wait_for_locks=True), ProgressBars())
        self.sam: Sam = load_sam(arguments.model)
        source = Data(arguments.coco / "train2017", arguments.coco / "annotations/instances_train2017.json")
        everything = source.samples(count=None, progress=self.session.progress)
        both = self._draw(everything, 2 * _IMAGES)
        # A longer sample of a seed holds the shorter one.
        self.samples = self._draw(everything, _IMAGES)
        used = {sample.path for sample in self.samples}
        others = [sample for sample in both if sample.path not in used]
        self.own, self.other = self._measure(self.samples), self._measure(others)

    def _draw(self, samples: Sequence[Sample], count: int) -> list[Sample]:
        return draw_calibration_samples(samples, count=count, prompts=4, progress=self.session.progress)

    def _measure(self, samples: Sequence[Sample]) -> Vector:
        """Divergences and diagonal parts of each image, [images, 2, units, 2, bits]."""
        session, recipe = self.session, find_recipe(_RECIPE)
        return measure_images(
            self.sam,
            samples,
            output="bernoulli",
            draws=len(samples),
            ranges=find_ranges(self.sam, self.samples, observer=recipe.observer, session=session),
            weights=session.grids.of(self.sam, observer=recipe.observer),
            cache=session.cache,
            progress=session.progress,
            engine=session.engine,
        )

    def analyze(self, images: Vector) -> Analysis:
        """The analysis of measured images, as the recipe will round."""
        fisher = {"bernoulli": steady(*alike(images))}
        found = Analysis(self.sam.source, len(images), self.sam.costs(), {}, {}, {}, (), fisher)
        recipe = find_recipe(_RECIPE)
        return adapt_analysis(found, self.sam, self.samples, recipe=recipe, session=self.session)


def cost(analysis: Analysis, plan: BitPlan) -> float:
    """The expected divergence of a plan: what the allocation minimises."""
    widths = sorted({*CANDIDATE_BITS, 16})
    divergences = interpolate(analysis.fisher["bernoulli"], CANDIDATE_BITS, widths)
    chosen = [(plan.bits[unit.name].weight, plan.bits[unit.name].activation) for unit in analysis.units]
    return sum(
        float(divergences[i, operand, widths.index(bits)])
        for i, pair in enumerate(chosen)
        for operand, bits in enumerate(pair)
    )


def changed(first: BitPlan, second: BitPlan) -> float:
    """The share of operands with other bits."""
    pairs = [(first.bits[name], second.bits[name]) for name in first.bits]
    return float(np.mean([[a.weight != b.weight, a.activation != b.activation] for a, b in pairs]))


def follow(experiment: Experiment, budget: str, order: Sequence[int], full: Allocation) -> Iterator[dict[str, Any]]:
    """The choice of bits after each group of images."""
    options = AllocationOptions()
    judges = {"own": experiment.analyze(experiment.own), "other": experiment.analyze(experiment.other)}
    before: BitPlan | None = None
    for count in range(_GROUP, _IMAGES + 1, _GROUP):
        found, started = full, process_time()
        if count < _IMAGES:
            analysis = experiment.analyze(experiment.own[list(order[:count])])
            found = choose_bits(analysis, Budget.parse(budget), options=options)
        seconds = process_time() - started
        excess = {name: cost(judge, found.plan) / cost(judge, full.plan) - 1 for name, judge in judges.items()}
        moved = None if before is None else changed(before, found.plan)
        before = found.plan
        yield {
            "images": count,
            "differs": changed(found.plan, full.plan),
            "moved": moved,
            **excess,
            "seconds": seconds,
        }


def stop(path: Sequence[Mapping[str, Any]], share: float, groups: int) -> Mapping[str, Any]:
    """The step of a path at which a rule stops; the last one if it never does."""
    calm = 0
    for step in path:
        calm = calm + 1 if step["moved"] is not None and step["moved"] <= share else 0
        if calm == groups:
            return step
    return path[-1]


def run(arguments: argparse.Namespace) -> None:
    """Measure, and write after each budget."""
    experiment = Experiment(arguments)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(_IMAGES).tolist() for _ in range(arguments.orders)]
    budgets: dict[str, Any] = {}
    for budget in arguments.budgets:
        full, other = (
            choose_bits(experiment.analyze(images), Budget.parse(budget), options=AllocationOptions())
            for images in (experiment.own, experiment.other)
        )
        tracked = experiment.session.progress.track(orders, label=budget, total=len(orders))
        paths = [list(follow(experiment, budget, order, full)) for order in tracked]
        budgets[budget] = {
            "other_images_differ": changed(full.plan, other.plan),
            "paths": paths,
        }
        result = {"machine": machine(), "model": arguments.model, "images": _IMAGES, "budgets": budgets}
        write_json(arguments.output, result)


def convergence(data: Mapping[str, Any]) -> str:
    """For numbers of images: operands that differ from the choice of all, and what the choice costs more."""
    budgets = data["budgets"]
    lines = [line(["images", *budgets]), line(["---:", *["---:"] * len(budgets)])]
    for place, first in enumerate(next(iter(budgets.values()))["paths"][0]):
        cells = []
        for found in budgets.values():
            steps = [path[place] for path in found["paths"]]
            differs, own, other = (np.mean([step[key] for step in steps]) for key in ("differs", "own", "other"))
            cells.append(f"{differs:.0%} / {own:+.1%} / {other:+.1%}")
        lines.append(line([str(first["images"]), *cells]))
    return "\n".join([*lines, "", machine_line(data)])


def rules(data: Mapping[str, Any]) -> str:
    """For some rules: images at which they stop, and what the choice costs more."""
    budgets = data["budgets"]
    lines = [line(["operands that change, at most", "groups", *budgets]), line(["---:"] * (2 + len(budgets)))]
    for share, groups in _RULES:
        cells = []
        for found in budgets.values():
            stops = [stop(path, share, groups) for path in found["paths"]]
            images, own, other = (np.mean([step[key] for step in stops]) for key in ("images", "own", "other"))
            cells.append(f"{images:.0f} images, {own:+.1%} / {other:+.1%}")
        lines.append(line([f"{share:.0%}", str(groups), *cells]))
    return "\n".join([*lines, "", machine_line(data)])


def report(data: Mapping[str, Any]) -> str:
    """All tables, the seconds of a choice, and how far two choices of all images are apart."""
    lines = [convergence(data), "", rules(data), ""]
    for budget, found in data["budgets"].items():
        seconds = [step["seconds"] for path in found["paths"] for step in path[:-1]]
        lines.append(
            f"{budget}: a choice takes {np.median(seconds):.1f} s of a processor (most {max(seconds):.1f} s). That of "
            f"other images has other bits for {found['other_images_differ']:.1%} of the operands."
        )
    return "\n".join(lines)


def main() -> None:
    """Parse arguments; measure and write, or print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="sam-tiny")
    parser.add_argument("--coco", type=Path, default=Path("../shared/data/coco-mini"))
    parser.add_argument("--table", action="store_true", help="print what is known, and measure nothing")
    parser.add_argument("--output", type=Path, default=Path("docs/data/fisher_stopping.json"))
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--orders", type=int, default=3, help="random orders of the images")
    parser.add_argument("--budgets", nargs="+", default=list(_BUDGETS))
    arguments = parser.parse_args()
    if not arguments.table:
        run(arguments)
    print(report(read_json(arguments.output, what="results of this script")))


if __name__ == "__main__":
    main()
