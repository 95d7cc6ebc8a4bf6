"""The main job: a float model, images and a budget in; a quantized directory with its report out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation, check_request
from mixqsam.allocation.uniform import nearest_uniform, uniform_label
from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import save_model
from mixqsam.data.images import shorten_paths
from mixqsam.data.samples import Sample, draw_samples
from mixqsam.directories import claim_directory, new_directory
from mixqsam.errors import BudgetError
from mixqsam.evaluation.evaluate import EvaluationResult, RecordCache, evaluate
from mixqsam.files import digest, digest_file, write_bytes, write_json
from mixqsam.pipeline.estimate import (
    analysis_stages,
    announce,
    check_stage,
    find_hints,
    measure_speed,
    quantization_stage,
    sample_prompts,
)
from mixqsam.pipeline.evaluate import RECORDS
from mixqsam.pipeline.examples import DrawnExample, draw_examples
from mixqsam.pipeline.options import AnalysisOptions, Evaluation, Options
from mixqsam.pipeline.provenance import machine, record_options, versions
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import (
    MARKER,
    analyze_model,
    calibration_samples,
    check_truth,
    quantize_model,
    run_allocation,
    select_annotations,
    select_left_over,
    with_prompts,
)
from mixqsam.pipeline.stored import adopt_allocation, check_units, read_allocation
from mixqsam.plan import Analysis
from mixqsam.progress import begin_job, following
from mixqsam.quantization.quantize import Quantized, check_recipe
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.recipes import find_recipe
from mixqsam.reporting.page import ReportContent, write_page
from mixqsam.reporting.record import NAME, CalibrationImages, EvaluationImages, Figures, Piece, Run
from mixqsam.reporting.summary import write_summary
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor

PAGE = "report.html"
# Default number of images for the comparison; the calibration does not use them.
_DEFAULT_LIMIT = 8
# Assumed number of images of a comparison without a limit.
_MANY = 100


@dataclass(frozen=True)
class Result:
    """A finished quantization.

    Attributes:
        directory: the written directory.
        analysis, allocation: analysis and allocation of the model.
        uniform: the largest uniform model within the budget, if any; a uniform budget's is the allocation itself.
        run: record of the run: figures, times, versions.
        check: name → evaluation result; empty without an evaluation.
    """

    directory: Path
    analysis: Analysis
    allocation: Allocation
    uniform: Allocation | None
    run: Run
    check: Mapping[str, EvaluationResult]


@dataclass(frozen=True)
class _Request:
    """What a user asks for; `stored` holds the bits where they are not chosen."""

    model: str | Path
    data: Source
    budget: Budget
    options: Options
    evaluation: Evaluation
    stored: Allocation | None


@dataclass(frozen=True)
class _Comparison:
    """Quality of the finished models, and the images of the evaluation."""

    results: Mapping[str, EvaluationResult]
    images: EvaluationImages | None = None
    examples: Sequence[DrawnExample] = ()


@dataclass(frozen=True)
class _QuantizedModel:
    """Content of the quantized directory."""

    quantized: Quantized
    analysis: Analysis
    allocation: Allocation
    uniform: Allocation | None
    comparison: _Comparison
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
    allocation: Path | None = None,
) -> Result:
    """Analyse, allocate, quantize, compare with the float model, and write the directory.

    Args:
        model: float checkpoint.
        data: calibration images.
        budget: limits of size and BitOps.
        output: directory to write; after an error nothing is written.
        options: options of all stages. Only measurements that the allocation uses are made, with the recipe's
            observer.
        session: cache and progress.
        overwrite: replace a directory that mixqsam wrote.
        evaluation: images of the comparison with the float model.
        allocation: a stored allocation, or a quantized directory, whose bits the model gets. Budget and options of
            the allocation are then without effect, and nothing is measured.
    """
    evaluation = evaluation or Evaluation()
    stored = None if allocation is None else read_allocation(allocation)
    record = record_options(model, data, budget=budget, options=options, evaluation=evaluation, device=session.device)
    if allocation is not None:
        record["allocation"] = str(allocation.expanduser().absolute())
    request = _Request(model, data, budget, options, evaluation, stored)
    with claim_directory(output, overwrite=overwrite, marker=MARKER), following(session.progress):
        finished = _quantize(request, session)
        run = _write(finished, output, session=session, overwrite=overwrite, options=record)
    return Result(
        output,
        finished.analysis,
        finished.allocation,
        finished.uniform,
        run,
        finished.comparison.results,
    )


def _quantize(request: _Request, session: Session) -> "_QuantizedModel":
    options, evaluation, data = request.options, request.evaluation, request.data
    recipe = find_recipe(options.quantization.recipe)
    measurements = (
        select_measurements(options, [request.budget]) if request.stored is None else measure_nothing(options)
    )
    with session.timed("loading"):
        sam = load_sam(request.model, device=session.device)
        samples = calibration_samples(data, measurements, session)
    check_recipe(recipe, images=len(samples))
    if request.stored is None:
        check_budget(sam, request.budget, options)
    else:
        check_units(request.stored, sam.costs())
    if evaluation.limit != 0 and evaluation.data is not None:
        check_truth(evaluation.data)
    _begin(request, sam, samples, measurements=measurements, recipe=recipe, session=session)
    analysis = analyze_model(sam, samples, options=measurements, observer=recipe.observer, session=session)
    analysis = with_prompts(analysis, options.allocation)
    analysis = analysis.with_extra_bytes(recipe.extra_bytes(analysis.units))
    if request.stored is None:
        allocation = run_allocation(analysis, request.budget, options=options.allocation, session=session)
    else:
        allocation = adopt_allocation(request.stored, analysis)
    uniform = nearest_uniform(analysis, allocation, keep=options.allocation.keep)
    quantized = quantize_model(sam, allocation.plan, samples, options=options.quantization, session=session)
    comparison = _Comparison({})
    limit = choose_limit(evaluation)
    if limit != 0:
        models = {"float": sam}
        if uniform is not None and uniform is not allocation and recipe.method is None:
            # A second reconstruction would double the time; `mixqsam compare` makes it.
            models["uniform"] = quantize_model(
                sam, uniform.plan, samples, options=options.quantization, session=session
            ).sam
        models[allocation.kind] = quantized.sam
        plans = {"uniform": uniform.plan} if uniform else {}
        plans[allocation.kind] = allocation.plan
        key = digest(recipe.key, asdict(options.quantization), sam.fingerprint, [sample.digest() for sample in samples])
        keys = {name: digest(key, plans[name].to_json() if name in plans else "float") for name in models}
        comparison = _compare(
            models,
            evaluation.data or data,
            samples,
            limit=limit,
            is_new=evaluation.data is not None,
            keys=keys,
            seed=measurements.seed,
            session=session,
        )
    calibration = CalibrationImages(seed=measurements.seed, images=shorten_paths([sample.path for sample in samples]))
    return _QuantizedModel(quantized, analysis, allocation, uniform, comparison, recipe, calibration)


def _begin(
    request: _Request,
    sam: Sam,
    samples: Sequence[Sample],
    *,
    measurements: AnalysisOptions,
    recipe: Recipe,
    session: Session,
) -> None:
    """Say what the job takes, and start to follow it."""
    speed = measure_speed(sam, prompts=sample_prompts(samples))
    stages = analysis_stages(speed, sam, images=len(samples), options=measurements)
    is_uniform = request.budget.uniform is not None or (request.stored is not None and not request.stored.objective)
    limit = choose_limit(request.evaluation)
    models = 2 if not is_uniform and recipe.method is None and limit != 0 else 1
    stages.append(
        quantization_stage(
            speed,
            images=len(samples),
            recipe=recipe,
            options=request.options.quantization,
            models=models,
            is_calibrated=len(stages) > 1,
        )
    )
    if limit != 0:
        # The number of images that a folder has is not known yet.
        stages.append(check_stage(speed, images=_MANY if limit is None else limit, models=models))
    announce(stages, find_hints(stages, recipe=recipe, options=measurements), session)
    begin_job(session.progress, stages)


def measure_nothing(options: Options) -> AnalysisOptions:
    """The options of an analysis that measures no unit."""
    return replace(options.analysis, importance=False, pairs=False, sensitivity_bits=(), fisher=())


def select_measurements(options: Options, budgets: Sequence[Budget]) -> AnalysisOptions:
    """Select the measurements that the allocation uses, because measuring takes long; uniform budgets use none."""
    analysis, allocation = options.analysis, options.allocation
    if all(budget.uniform is not None for budget in budgets):
        return measure_nothing(options)
    coupled, utility = allocation.synergy_weight > 0, allocation.utility
    output = allocation.output_distribution
    return replace(
        analysis,
        importance=coupled or utility in {"linear", "exponential"},
        pairs=analysis.pairs and coupled and allocation.synergy == "interaction",
        sensitivity_bits=analysis.sensitivity_bits if utility == "measured" else (),
        fisher=(output,) if utility == "fisher" else (),
    )


def choose_limit(evaluation: Evaluation) -> int | None:
    """Maximum images of the comparison: all that the user names, or a few that the calibration does not use."""
    return _DEFAULT_LIMIT if evaluation.limit is None and evaluation.data is None else evaluation.limit


def check_budget(sam: Sam, budget: Budget, options: Options) -> None:
    """Check budget and options before the long work.

    Raises:
        BudgetError: the budget cannot be met, or the options contradict each other.
    """
    costs, allocation = sam.costs(prompts_per_image=options.allocation.prompts_per_image or 1), options.allocation
    check_request(costs, budget, candidates=allocation.choices, tied=allocation.tied, keep=allocation.keep)
    if budget.uniform is None:
        _check_measurements(options)


def _check_measurements(options: Options) -> None:
    """Check that the options measure the quantities of the allocation."""
    analysis, allocation = options.analysis, options.allocation
    utility, output = allocation.utility, allocation.output_distribution
    if utility == "measured" and not analysis.sensitivity_bits:
        raise BudgetError("--utility measured needs --sensitivity-bits, e.g. 2,4,8.")
    if utility == "fisher" and output not in analysis.fisher:
        raise BudgetError(f"--utility fisher needs --fisher {output}.")
    if not analysis.importance and (utility in {"linear", "exponential"} or allocation.synergy_weight > 0):
        option = "--synergy-weight" if utility in {"measured", "fisher"} else f"--utility {utility}"
        raise BudgetError(f"{option} needs the importance; remove --no-importance.")


def _compare(
    models: Mapping[str, Sam],
    source: Source,
    used: Sequence[Sample],
    *,
    limit: int | None,
    is_new: bool,
    keys: Mapping[str, str],
    seed: int,
    session: Session,
) -> _Comparison:
    """Compare with the float model, if possible on images that the calibration does not use."""
    with session.timed("check"):
        enough = None if limit is None else limit + (0 if is_new else len(used))
        samples = source.samples(count=enough, progress=session.progress, seed=seed)
        samples = samples if is_new else select_left_over(samples, used, session)
        samples = draw_samples([sample for sample in samples if len(sample.prompts)], count=limit, seed=seed)
        annotations = select_annotations(source, named=is_new, session=session)
        truth = None if annotations is None else digest_file(annotations)
        predictors = {name: SamPredictor(sam) for name, sam in models.items()}
        results = evaluate(
            predictors,
            samples,
            annotations=annotations,
            progress=session.progress,
            record_cache=RecordCache(
                session.cache, {name: digest(RECORDS, "check", key, truth) for name, key in keys.items()}
            ),
        )
        # The quantized model is the last one.
        result = list(results.values())[-1]
        examples = draw_examples(predictors, samples, result.by_image, progress=session.progress)
    seen = {sample.path for sample in used}
    images = EvaluationImages(
        images=result.images,
        prompts=result.prompts,
        kind=result.prompt_kind,
        seen=any(sample.path in seen for sample in samples),
        digest=digest([sample.labelled_digest() for sample in samples], truth),
    )
    return _Comparison(results, images, examples)


def _write(
    finished: _QuantizedModel, output: Path, *, session: Session, overwrite: bool, options: Mapping[str, Any]
) -> Run:
    analysis, allocation, comparison = finished.analysis, finished.allocation, finished.comparison
    manifest = Manifest.of(
        finished.quantized.sam,
        allocation.plan,
        recipe=finished.recipe.name,
        prompts_per_image=analysis.costs.prompts_per_image,
    )
    with new_directory(output, overwrite=overwrite, marker=MARKER) as folder:
        with session.timed("writing"):
            file_bytes = save_model(finished.quantized.sam, manifest, folder)
        run = Run(
            command=session.command,
            options=dict(options),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=finished.recipe.name,
            versions=versions(),
            machine=machine(),
            seconds=session.seconds,
            models=_figures(analysis, allocation, finished.uniform, comparison.results),
            check=comparison.images,
            calibration=finished.calibration,
            file_bytes=file_bytes,
            reconstruction=[Piece(**asdict(log)) for log in finished.quantized.logs],
            examples=[drawn.example for drawn in comparison.examples],
        )
        write_json(folder / "analysis.json", analysis.to_json())
        write_json(folder / MARKER, allocation.to_json())
        write_json(folder / NAME, run.model_dump())
        for drawn in comparison.examples:
            for name, content in drawn.contents.items():
                write_bytes(folder / name, content)
        summary = write_summary(analysis, plan=allocation.plan, allocation=allocation.to_json(), run=run)
        write_bytes(folder / "summary.md", summary.encode())
        pictures = {name: content for drawn in comparison.examples for name, content in drawn.contents.items()}
        page = write_page(ReportContent(analysis, allocation.to_json(), run, pictures))
        write_bytes(folder / PAGE, page.encode())
    return run


def _figures(
    analysis: Analysis, allocation: Allocation, uniform: Allocation | None, results: Mapping[str, EvaluationResult]
) -> dict[str, Figures]:
    costs = analysis.costs
    plans = {"float": costs.float_plan}
    plans |= {"uniform": uniform.plan} if uniform else {}
    plans[allocation.kind] = allocation.plan
    return {
        name: make_figures(
            results.get(name),
            size=costs.size(plan),
            bitops=costs.bitops(plan),
            bits=uniform_label(analysis, uniform) if uniform and name == "uniform" else "",
        )
        for name, plan in plans.items()
    }


def make_figures(result: EvaluationResult | None, *, size: float, bitops: float, bits: str = "") -> Figures:
    """Make the figures of a model from its costs and its evaluation result."""
    fidelity = result.fidelity if result else None
    return Figures(
        bits=bits,
        size=size,
        bitops=bitops,
        mean_iou=fidelity.mean_iou if fidelity else None,
        truth_iou=result.truth_iou if result else None,
        ap=result.coco.ap if result and result.coco else None,
        kl=fidelity.kl["bernoulli"] if fidelity else None,
    )
