"""The main job: a float model, images and a budget in; a quantized directory with its report out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation, check_request
from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import save_model
from mixqsam.data.images import short_names
from mixqsam.data.samples import Sample, drawn_samples
from mixqsam.directories import claim_directory, new_directory
from mixqsam.errors import BudgetError
from mixqsam.evaluation.run import Kept, Report, evaluate
from mixqsam.files import digest, digest_file, write_bytes, write_json
from mixqsam.pipeline.evaluate import RECORDS
from mixqsam.pipeline.examples import Drawn, draw_examples
from mixqsam.pipeline.options import AnalysisOptions, Evaluation, Options
from mixqsam.pipeline.provenance import machine, record_options, versions
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import (
    MARKER,
    analyze_model,
    calibration_samples,
    check_truth,
    left_over,
    nearest_uniform,
    quantize_model,
    run_allocation,
    scored_annotations,
    with_prompts,
)
from mixqsam.plan import Analysis
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.recipes import find_recipe
from mixqsam.quantization.run import Quantized, check_recipe
from mixqsam.reporting.page import ReportContent, write_page
from mixqsam.reporting.record import NAME, CalibrationImages, EvaluationImages, Figures, Piece, Run
from mixqsam.reporting.summary import write_summary
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor

PAGE = "report.html"
# Images that the calibration leaves over and models are compared on, unless the user says how many.
_LEFT_OVER = 8


@dataclass(frozen=True)
class Result:
    """A finished quantization.

    Attributes:
        directory: what was written.
        analysis, allocation: what led to it.
        uniform: the largest uniform model within the budget, if any.
        run: what was measured of it: figures, times, versions.
        check: name → report on images; empty if not wanted.
    """

    directory: Path
    analysis: Analysis
    allocation: Allocation
    uniform: Allocation | None
    run: Run
    check: Mapping[str, Report]


@dataclass(frozen=True)
class _Checked:
    """What the finished models were found to be worth, and on what."""

    reports: Mapping[str, Report]
    about: EvaluationImages | None = None
    drawn: Sequence[Drawn] = ()


@dataclass(frozen=True)
class _Finished:
    """All that is to be written."""

    quantized: Quantized
    analysis: Analysis
    allocation: Allocation
    uniform: Allocation | None
    checked: _Checked
    recipe: Recipe
    calibration: CalibrationImages


def run_quantization(
    model: str | Path,
    data: Source,
    *,
    budget: Budget,
    output: Path,
    options: Options,
    session: Session,
    overwrite: bool = False,
    evaluation: Evaluation | None = None,
) -> Result:
    """Analyse, allocate, quantize, compare with the float model, and write all of it.

    Args:
        model: float checkpoint.
        data: calibration images.
        budget: what the model may cost.
        output: the directory to write, whole or not at all.
        options: how; what the allocation does not look at is not measured, and the recipe's observer is the
            analysis's too.
        session: cache and progress.
        overwrite: replace a directory that mixqsam wrote before.
        evaluation: on what the result is compared with the float model.
    """
    evaluation = evaluation or Evaluation()
    record = record_options(model, data, budget=budget, options=options, evaluation=evaluation, device=session.device)
    with claim_directory(output, overwrite=overwrite, marker=MARKER):
        found = _quantize(model, data, budget=budget, options=options, session=session, evaluation=evaluation)
        run = _write(found, output, session=session, overwrite=overwrite, options=record)
    return Result(output, found.analysis, found.allocation, found.uniform, run, found.checked.reports)


def _quantize(
    model: str | Path, data: Source, *, budget: Budget, options: Options, session: Session, evaluation: Evaluation
) -> "_Finished":
    recipe = find_recipe(options.quantization.recipe)
    measured = needed(options, [budget])
    with session.timed("loading"):
        sam = load_sam(model, device=session.device)
        samples = calibration_samples(data, measured, session)
    check_recipe(recipe, images=len(samples))
    check_budget(sam, budget, options)
    if evaluation.limit != 0 and evaluation.data is not None:
        check_truth(evaluation.data)
    analysis = analyze_model(sam, samples, options=measured, observer=recipe.observer, session=session)
    analysis = with_prompts(analysis, options.allocation)
    analysis = analysis.with_extra_bytes(recipe.extra_bytes(analysis.units))
    allocation = run_allocation(analysis, budget, options=options.allocation, session=session)
    uniform = nearest_uniform(analysis, allocation)
    quantized = quantize_model(sam, allocation.plan, samples, options=options.quantization, session=session)
    checked = _Checked({})
    limit = images_to_compare(evaluation)
    if limit != 0:
        models = {"float": sam}
        if uniform is not None and recipe.method is None:
            # A second reconstruction would double the time; `mixqsam compare` is there for that.
            models["uniform"] = quantize_model(
                sam, uniform.plan, samples, options=options.quantization, session=session
            ).sam
        models["mixed"] = quantized.sam
        plans = {"mixed": allocation.plan, **({"uniform": uniform.plan} if uniform else {})}
        key = digest(recipe.key, asdict(options.quantization), sam.fingerprint, [one.digest() for one in samples])
        keys = {name: digest(key, plans[name].to_json() if name in plans else "float") for name in models}
        checked = _check(
            models,
            evaluation.data or data,
            samples,
            limit=limit,
            is_new=evaluation.data is not None,
            keys=keys,
            seed=measured.seed,
            session=session,
        )
    calibration = CalibrationImages(seed=measured.seed, images=short_names([one.path for one in samples]))
    return _Finished(quantized, analysis, allocation, uniform, checked, recipe, calibration)


def needed(options: Options, budgets: Sequence[Budget]) -> AnalysisOptions:
    """Only what the allocation will look at: measuring is what takes the time. Uniform budgets look at nothing."""
    analysis, allocation = options.analysis, options.allocation
    if all(budget.uniform is not None for budget in budgets):
        return replace(analysis, importance=False, pairs=False, sensitivity_bits=(), fisher=())
    coupled, utility = allocation.synergy_weight > 0, allocation.utility
    output = allocation.output_distribution
    return replace(
        analysis,
        importance=coupled or utility in {"linear", "exponential"},
        pairs=analysis.pairs and coupled and allocation.synergy == "interaction",
        sensitivity_bits=analysis.sensitivity_bits if utility == "measured" else (),
        fisher=(output,) if utility == "fisher" else (),
    )


def images_to_compare(evaluation: Evaluation) -> int | None:
    """How many images models are compared on, at most: all that are named for it, or a few that are left over."""
    return _LEFT_OVER if evaluation.limit is None and evaluation.data is None else evaluation.limit


def check_budget(sam: Sam, budget: Budget, options: Options) -> None:
    """Fail before the long work, not after it.

    Raises:
        BudgetError: the budget cannot be met, or the options do not fit each other.
    """
    costs, allocation = sam.costs(prompts_per_image=options.allocation.prompts_per_image or 1), options.allocation
    check_request(costs, budget, candidates=allocation.candidates, tied=allocation.tied, keep=allocation.keep)
    if budget.uniform is None:
        _check_measured(options)


def _check_measured(options: Options) -> None:
    """Refuse to allocate by what the options say is not to be measured."""
    analysis, allocation = options.analysis, options.allocation
    utility, output = allocation.utility, allocation.output_distribution
    if utility == "measured" and not analysis.sensitivity_bits:
        raise BudgetError("--utility measured needs --sensitivity-bits, e.g. 2,4,8.")
    if utility == "fisher" and output not in analysis.fisher:
        raise BudgetError(f"--utility fisher needs --fisher {output}.")
    if not analysis.importance and (utility in {"linear", "exponential"} or allocation.synergy_weight > 0):
        asked = "--synergy-weight" if utility in {"measured", "fisher"} else f"--utility {utility}"
        raise BudgetError(f"{asked} needs the importance; leave --no-importance out.")


def _check(
    models: Mapping[str, Sam],
    source: Source,
    used: Sequence[Sample],
    *,
    limit: int | None,
    is_new: bool,
    keys: Mapping[str, str],
    seed: int,
    session: Session,
) -> _Checked:
    """Compare with the float model, if possible on images that the calibration has not seen."""
    with session.timed("check"):
        enough = None if limit is None else limit + (0 if is_new else len(used))
        samples = source.samples(count=enough, progress=session.progress, seed=seed)
        samples = samples if is_new else left_over(samples, used, session)
        samples = drawn_samples([sample for sample in samples if len(sample.prompts)], count=limit, seed=seed)
        annotations = scored_annotations(source, named=is_new, session=session)
        truth = None if annotations is None else digest_file(annotations)
        predictors = {name: SamPredictor(one) for name, one in models.items()}
        reports = evaluate(
            predictors,
            samples,
            annotations=annotations,
            progress=session.progress,
            kept=Kept(session.cache, {name: digest(RECORDS, "check", key, truth) for name, key in keys.items()}),
        )
        drawn = draw_examples(predictors, samples, reports["mixed"].by_image, progress=session.progress)
    seen = {sample.path for sample in used}
    about = EvaluationImages(
        images=reports["mixed"].images,
        prompts=reports["mixed"].prompts,
        kind=reports["mixed"].prompt_kind,
        seen=any(sample.path in seen for sample in samples),
        digest=digest([sample.labelled_digest() for sample in samples], truth),
    )
    return _Checked(reports, about, drawn)


def _write(found: _Finished, output: Path, *, session: Session, overwrite: bool, options: Mapping[str, Any]) -> Run:
    analysis, allocation, checked = found.analysis, found.allocation, found.checked
    manifest = Manifest.of(
        found.quantized.sam,
        allocation.plan,
        recipe=found.recipe.name,
        prompts_per_image=analysis.costs.prompts_per_image,
    )
    with new_directory(output, overwrite=overwrite, marker=MARKER) as folder:
        with session.timed("writing"):
            file_bytes = save_model(found.quantized.sam, manifest, folder)
        run = Run(
            command=session.command,
            options=dict(options),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=found.recipe.name,
            versions=versions(),
            machine=machine(),
            seconds=session.seconds,
            models=_figures(analysis, allocation, found.uniform, checked.reports),
            check=checked.about,
            calibration=found.calibration,
            file_bytes=file_bytes,
            reconstruction=[Piece(**asdict(log)) for log in found.quantized.logs],
            examples=[one.example for one in checked.drawn],
        )
        write_json(folder / "analysis.json", analysis.to_json())
        write_json(folder / MARKER, allocation.to_json())
        write_json(folder / NAME, run.model_dump())
        for one in checked.drawn:
            for name, content in one.contents.items():
                write_bytes(folder / name, content)
        summary = write_summary(analysis, plan=allocation.plan, allocation=allocation.to_json(), run=run)
        write_bytes(folder / "summary.md", summary.encode())
        pictures = {name: content for one in checked.drawn for name, content in one.contents.items()}
        page = write_page(ReportContent(analysis, allocation.to_json(), run, pictures))
        write_bytes(folder / PAGE, page.encode())
    return run


def _figures(
    analysis: Analysis, allocation: Allocation, uniform: Allocation | None, reports: Mapping[str, Report]
) -> dict[str, Figures]:
    costs = analysis.costs
    plans = {"float": costs.float_plan, "uniform": uniform.plan if uniform else None, "mixed": allocation.plan}
    return {
        name: figures_of(
            reports.get(name),
            size=costs.size(plan),
            bitops=costs.bitops(plan),
            bits=uniform.budget.text if uniform and name == "uniform" else "",
        )
        for name, plan in plans.items()
        if plan is not None
    }


def figures_of(report: Report | None, *, size: float, bitops: float, bits: str = "") -> Figures:
    """A model's costs and what was measured of it."""
    fidelity = report.fidelity if report else None
    return Figures(
        bits=bits,
        size=size,
        bitops=bitops,
        mean_iou=fidelity.mean_iou if fidelity else None,
        truth_iou=report.truth_iou if report else None,
        ap=report.coco.ap if report and report.coco else None,
        kl=fidelity.kl["bernoulli"] if fidelity else None,
    )
