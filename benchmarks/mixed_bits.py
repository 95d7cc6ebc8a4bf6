"""Mixed bits against uniform ones and against simple rules, at the size and the BitOps of uniform bits.

    python -m benchmarks.mixed_bits --model mobile-sam --coco COCO_FOLDER --first 50 --images 50   # reported images
    python -m benchmarks.mixed_bits --table                                                        # what is known

Calibrates on train2017 and judges on images of val2017, by annotated boxes: the first 50 choose defaults, the others
are reported. Every cell is kept, so that a stopped run resumes. A cell of MobileSAM takes 5 to 15 minutes on one core.

The simple rules cost more than uniform bits, because they add bits: a mixture at the budget of uniform bits has less.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch

from benchmarks.hardened import harden
from benchmarks.harness import interval, machine
from benchmarks.mixed_cells import BY_IMPORTANCE, FORMS, RULES, Cell, choose_bits
from benchmarks.mobile_encoders import coco_data, judged_samples
from mixqsam.allocation.budget import Budget
from mixqsam.analysis.fisher import alike, measure_images, steady
from mixqsam.cli.bars import ProgressBars
from mixqsam.data.samples import Sample
from mixqsam.evaluation.coco import Truth
from mixqsam.evaluation.record import Record, measure
from mixqsam.files import Cache, digest, read_json, write_json
from mixqsam.measurements import Analysis
from mixqsam.pipeline.options import AnalysisOptions, QuantizationOptions, Session
from mixqsam.pipeline.recipe_analysis import analyze_for_recipe
from mixqsam.pipeline.stages import (
    calibration_samples,
    find_ranges,
    quantize_model,
)
from mixqsam.plan import BitPlan, Vector
from mixqsam.prediction import Prediction
from mixqsam.quantization.recipes import find_recipe
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor

BUDGETS = ("W8A8", "W6A6", "W4A4", "W3A3")
_VERSION = 1
# The default of `AnalysisOptions.sensitivity_bits`.
_MEASURED_BITS = (2, 4, 8)
# Operands without an error have no logarithm.
_TINY = 1e-16


class Experiment:
    """A model, its calibration images, and the images on which it is judged."""

    def __init__(self, arguments: argparse.Namespace, session: Session) -> None:
        self.session = session
        self.sam: Sam = harden(load_sam(arguments.model)) if arguments.hard else load_sam(arguments.model)
        options = AnalysisOptions(
            count=arguments.count,
            importance=False,
            pairs=False,
            sensitivity_bits=(),
            fisher=("bernoulli",),
            fisher_draws=arguments.draws,
        )
        self.samples = calibration_samples(coco_data(arguments.coco, "train"), options, session)
        self.judged = judged_samples(arguments.coco, first=arguments.first, count=arguments.images)
        annotations = coco_data(arguments.coco, "val").annotations
        assert annotations is not None
        self.truth = Truth(annotations)
        self._options = options
        self._floats: dict[int, Prediction] = {}
        images = [sample.digest() for sample in (*self.samples, *self.judged)]
        self._key = digest(_VERSION, self.sam.fingerprint, images, arguments.draws)

    def plan(self, cell: Cell) -> BitPlan:
        """The bits of a cell.

        `as drawn` chooses them by the plain mean of the Fisher estimates, `as for nearest` by the sensitivities of
        weights that are rounded to nearest, whatever the recipe.
        """
        analysis = self._adapted(cell)
        if cell.form.endswith("as drawn"):
            analysis = replace(analysis, fisher={"bernoulli": self.images()[:, 0].mean(axis=0)})
        return choose_bits(analysis, cell, self.session)

    def _adapted(self, cell: Cell) -> Analysis:
        """The analysis as the cell's recipe has it."""
        recipe = find_recipe("omse" if cell.form.endswith("as for nearest") else cell.recipe)
        budget = Budget.parse(cell.budget)
        options = replace(
            self._options,
            importance=cell.form in BY_IMPORTANCE,
            sensitivity_bits=_MEASURED_BITS if cell.form == "measured" else (),
        )
        return analyze_for_recipe(
            self.sam, self.samples, recipe=recipe, budget=budget, options=options, session=self.session
        )

    def images(self) -> Vector:
        """Fisher estimates of each calibration image, and their diagonal parts: [images, 2, units, 2, bits]."""
        return measure_images(
            self.sam,
            self.samples,
            output="bernoulli",
            draws=self._options.fisher_draws,
            ranges=find_ranges(self.sam, self.samples, observer=self._options.observer, session=self.session),
            weights=self.session.grids.of(self.sam, observer=self._options.observer),
            cache=self.session.cache,
            progress=self.session.progress,
            engine=self.session.engine,
        )

    def reference(self, sample: Sample) -> Prediction:
        """The float model's masks."""
        if sample.image_id not in self._floats:
            self._floats[sample.image_id] = predict(SamPredictor(self.sam), sample)
        return self._floats[sample.image_id]

    def run(self, cell: Cell) -> dict[str, Any]:
        """Quantize and judge; finished cells come from the cache."""
        plan = self.plan(cell)
        costs = self.sam.costs()
        about = {"size": costs.size(plan), "bitops": costs.bitops(plan)}
        compensation = find_recipe(cell.recipe).compensation
        # A compensation that was changed is measured again.
        changes = [] if compensation is None else [asdict(compensation)]
        key = digest(self._key, plan.to_json(), cell.recipe, *changes)
        found: dict[str, Any] | None = self.session.cache.get("mixed-bits", key)
        if found is None:
            started = monotonic()
            options = QuantizationOptions(cell.recipe)
            model = quantize_model(self.sam, plan, self.samples, options=options, session=self.session).sam
            found = {"seconds": monotonic() - started, "records": self._records(SamPredictor(model))}
            self.session.cache.put("mixed-bits", key, found)
        return {**about, "seconds": found["seconds"], **self._figures(found["records"])}

    def float_figures(self) -> dict[str, Any]:
        """What the float model has with the truth."""
        return self._figures([self._record(sample, self.reference(sample)) for sample in self.judged])

    def _records(self, predictor: SamPredictor) -> list[Record]:
        tracked = self.session.progress.track(self.judged, label="Judging", total=len(self.judged))
        return [self._record(sample, predict(predictor, sample)) for sample in tracked]

    def _record(self, sample: Sample, prediction: Prediction) -> Record:
        return measure(sample, prediction, self.reference(sample), truth=self.truth)

    def _figures(self, records: Sequence[Record]) -> dict[str, Any]:
        images = [sample.image_id for sample in self.judged]
        results = [result for record in records for result in record["results"]]
        return {
            "ious": [_rounded(record["ious"]) for record in records],
            "truth_ious": [_rounded(record["truth_ious"]) for record in records],
            "ap": self.truth.score(results, images=images).ap,
        }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def predict(predictor: SamPredictor, sample: Sample) -> Prediction:
    """One mask for each prompt."""
    predictor.set_image(sample.open())
    return predictor.segment(sample.prompts)


def halves(images: Vector, *, splits: int = 20) -> dict[str, float]:
    """How far half of the images is from the plain mean of the other half, as a deviation of logarithms.

    The plain mean has each image divided by its scale, and a factor for all units is left out: it changes no choice.

    Args:
        images: [images, 2, units, 2, bits].
        splits: random halves.
    """
    scaled = images / images[:, 1].mean(axis=(1, 2, 3))[:, None, None, None, None]
    rng, found = np.random.default_rng(0), []
    for _ in range(splits):
        order = rng.permutation(len(images))
        first, second = order[: len(images) // 2], order[len(images) // 2 :]
        truth = np.log(scaled[second, 0].mean(axis=0) + _TINY)
        pair = []
        for estimate in (images[first, 0].mean(axis=0), steady(*alike(images[first]))):
            difference = np.log(estimate + _TINY) - truth
            pair.append(float((difference - np.median(difference)).std()))
        found.append(pair)
    plain, steadied = np.mean(found, axis=0)
    return {"as drawn": float(plain), "as used": float(steadied)}


def table(content: Mapping[str, Any]) -> Iterator[str]:
    """Rows of Markdown: one for each recipe and form, a column for each budget.

    A cell has the mean IoU with the float masks and its 95% interval, the share of the float model's mean IoU with the
    truth, and AP.
    """
    for model, found in content["models"].items():
        cells = found["cells"]
        budgets = list(dict.fromkeys(cell["budget"] for cell in cells.values()))
        exact = interval(found["float"]["truth_ious"])[0]
        yield f"| {found['images']} images after {found['first']}: {model.split()[0]} | {' | '.join(budgets)} |"
        yield "|---|" + "---:|" * len(budgets)
        for recipe, form in dict.fromkeys((cell["recipe"], cell["form"]) for cell in cells.values()):
            texts = [_text(cells.get(Cell(budget, form, recipe).name), exact) for budget in budgets]
            yield f"| {form}, {recipe} | {' | '.join(texts)} |"
        yield ""


def _text(cell: Mapping[str, Any] | None, exact: float) -> str:
    if cell is None:
        return "–"
    middle, low, high = interval(cell["ious"])
    share = interval(cell["truth_ious"])[0] / exact
    return f"{middle:.3f} ({low:.3f}–{high:.3f}); {share:.1%}; AP {cell['ap']:.1f}"


def run(arguments: argparse.Namespace) -> None:
    """Measure what is not known yet; write after each cell."""
    torch.set_num_threads(arguments.threads)
    session = Session(Cache(arguments.cache, wait_for_locks=True), ProgressBars())
    experiment = Experiment(arguments, session)
    content = (
        read_json(arguments.output, what="results of this script") if arguments.output.exists() else {"models": {}}
    )
    key = f"{arguments.model}{'-hard' if arguments.hard else ''} {arguments.first}"
    about = {"first": arguments.first, "images": len(experiment.judged), "calibration": len(experiment.samples)}
    if content["models"].get(key, about)["calibration"] != len(experiment.samples):
        # Cells of one key have the same images for calibration.
        key += f", {len(experiment.samples)} images"
    found = content["models"].setdefault(key, {**about, "cells": {}})
    found["float"], found["halves"] = experiment.float_figures(), halves(experiment.images())
    for budget in arguments.budgets:
        for recipe in arguments.recipes:
            for form in arguments.forms:
                cell = Cell(budget, form, recipe)
                figures = experiment.run(cell)
                found["cells"][cell.name] = {"budget": budget, "form": form, "recipe": recipe, **figures}
                write_json(arguments.output, {**content, "machine": machine()})
                seconds = f"{figures['seconds']:.0f} s"
                text = _text(found["cells"][cell.name], interval(found["float"]["truth_ious"])[0])
                aps = f"AP {figures['ap']:.1f} of {found['float']['ap']:.1f}"
                print(f"{key} {cell.name}: {text}, {aps}, {seconds}", flush=True)


def add_arguments(parser: argparse.ArgumentParser, *, cache: Path) -> None:
    """Add what an `Experiment` asks for; `cache` is where it keeps finished work by default."""
    parser.add_argument("--model", default="sam-tiny")
    parser.add_argument("--hard", action="store_true", help="the model's hard twin, of benchmarks.hardened")
    parser.add_argument("--coco", type=Path, default=Path("../shared/data/coco-mini"))
    parser.add_argument("--first", type=int, default=0, help="images of val2017 to leave out before the first")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--count", type=int, default=32, help="calibration images")
    parser.add_argument("--draws", type=int, default=32, help="of the output, for the Fisher sensitivity")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=cache)


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    add_arguments(parser, cache=Path("out/mixed-bits"))
    parser.add_argument("--budgets", nargs="*", default=BUDGETS)
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=RULES)
    parser.add_argument("--recipes", nargs="*", default=("omse", "compensated"))
    parser.add_argument("--output", type=Path, default=Path("docs/data/mixed_bits.json"))
    parser.add_argument("--table", action="store_true", help="print what is known, and measure nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        run(arguments)
    print("\n".join(table(read_json(arguments.output, what="results of this script"))))


if __name__ == "__main__":
    main()
