"""Compare recipes × budgets × (uniform, mixed) on one model and one data set; finished models are cached."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from mixqsam.allocation.budget import Budget
from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.uniform import nearest_uniform
from mixqsam.data.samples import Sample, draw_calibration_samples, draw_samples
from mixqsam.directories import claim_directory, new_directory
from mixqsam.errors import BudgetError, InputError
from mixqsam.evaluation.evaluate import EvaluationResult, evaluate
from mixqsam.files import digest, digest_file, write_bytes, write_json
from mixqsam.parallel.engine import combine, take_share
from mixqsam.pipeline.estimate import (
    analysis_stages,
    announce,
    check_stage,
    measure_speed,
    quantization_stage,
    sample_prompts,
)
from mixqsam.pipeline.measurements import check_budget, select_measurements
from mixqsam.pipeline.options import AnalysisOptions, CompareRequest, Evaluation, Options
from mixqsam.pipeline.presets import apply_preset, write_preset
from mixqsam.pipeline.recipe_analysis import adapt_analysis
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import (
    analyze_model,
    check_truth,
    load_float,
    quantize_model,
    run_allocation,
    select_annotations,
    select_left_over,
    with_prompts,
)
from mixqsam.plan import Analysis
from mixqsam.progress import Stage, begin_job, following
from mixqsam.quantization.custom import CustomRecipe
from mixqsam.quantization.quantize import check_recipe
from mixqsam.quantization.recipe import Recipe
from mixqsam.quantization.recipes import find_recipe
from mixqsam.reporting.comparison import Comparison, Mode, Row, figure, to_csv, to_markdown
from mixqsam.reporting.latex import to_latex
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor

MARKER = "comparison.json"
# Increase it when scores change their meaning, so that old ones in the cache are not used.
_VERSION = 1


@dataclass(frozen=True)
class _Model:
    """One quantized model of the request."""

    choice: str | CustomRecipe
    recipe: Recipe
    budget: Budget
    mode: Mode
    allocation: Allocation


def run_comparison(
    model: str | Path,
    calibration: Source,
    evaluation: Evaluation,
    *,
    request: CompareRequest,
    output: Path,
    session: Session,
    overwrite: bool = False,
) -> Comparison:
    """Quantize and evaluate the requested models, and write the tables and the figure.

    The cache stores every score and every finished piece of a reconstruction, so a stopped run resumes. A group of
    processes shares the images of the analysis, and then the models.

    Args:
        model: float checkpoint.
        calibration: images that recipes are calibrated on.
        evaluation: images of the comparison; by default those of `calibration` that the calibration does not use.
        request: recipes, budgets and modes.
        output: directory to write: `comparison.md`, `.csv`, `.tex`, `.json`, `.svg`, `.png`.
        session: cache and progress.
        overwrite: replace an existing comparison.

    Raises:
        InputError: an unknown recipe, or too few calibration images for one.
        BudgetError: a budget is malformed or cannot be met.
    """
    with claim_directory(output, overwrite=overwrite, marker=MARKER, is_main_process=session.engine.rank == 0):
        with following(session.progress):
            comparison = _compare(model, calibration, evaluation, request=request, session=session)
        if not session.engine.rank:
            _write(comparison, output, overwrite=overwrite)
    return comparison


def _compare(
    model: str | Path, calibration: Source, evaluation: Evaluation, *, request: CompareRequest, session: Session
) -> Comparison:
    recipes = {choice: find_recipe(choice) for choice in request.recipes}
    if not recipes or not request.budgets or not request.modes:
        raise InputError("There is nothing to compare: name a recipe, a budget, and uniform or mixed.")
    if all(budget.uniform is not None for budget in request.budgets) and "uniform" not in request.modes:
        raise InputError("Uniform budgets give uniform bits only: add the mode uniform, or a budget such as W4A4.")
    for budget in request.budgets:
        _check_measured(budget)
    sam = load_float(model, session)
    options = select_measurements(_mixed_options(request), request.budgets)
    for budget in request.budgets:
        check_budget(sam, budget, apply_preset(request.options, budget))
    everything = calibration.samples(count=None, progress=session.progress)
    samples = draw_calibration_samples(
        everything, count=options.count, prompts=options.prompts, progress=session.progress, seed=options.seed
    )
    for recipe in recipes.values():
        check_recipe(recipe, images=len(samples))
    source = evaluation.data or calibration
    annotations = select_annotations(source, named=evaluation.data is not None, session=session)
    if evaluation.data is not None:
        check_truth(evaluation.data)
    evaluated = _all(evaluation.data, session) if evaluation.data else select_left_over(everything, samples, session)
    evaluated = (
        evaluated if evaluation.limit is None else draw_samples(evaluated, count=evaluation.limit, seed=options.seed)
    )
    _begin(sam, samples, request=request, options=options, images=len(evaluated), session=session)
    analysis = with_prompts(analyze_model(sam, samples, options=options, session=session), request.options.allocation)
    engine = session.engine
    # A solver that stops at its time limit may stop elsewhere in another process: rank 0 allocates for all.
    adapted = {
        choice: adapt_analysis(analysis, sam, samples, recipe=recipe, session=session)
        for choice, recipe in (() if engine.rank else recipes.items())
    }
    planned = [m for choice, own in adapted.items() for m in _plan_models(choice, own, request, session)]
    models = engine.gather(planned)[0]
    scores = _Scores(sam, samples, evaluated, annotations=annotations, request=request, session=session)
    share = take_share(engine, models)
    tracked = session.progress.track(share, label="Comparing", total=len(share))
    with session.timed("comparison"):
        share_rows = {index: _make_row(planned_model, *scores(planned_model)) for index, planned_model in tracked}
    rows = combine(engine, share_rows, count=len(models))
    prompted = [sample for sample in evaluated if len(sample.prompts)]
    return Comparison(
        str(model),
        len(samples),
        len(prompted),
        _make_float_row(analysis, scores.reference()),
        rows,
        _settings(request),
        prompts=sum(len(sample.prompts) for sample in prompted),
        prompt_kind=" and ".join(sorted({sample.prompt_kind for sample in prompted})),
    )


def _check_measured(budget: Budget) -> None:
    """Refuse a budget for which models have to be measured one after the other.

    Raises:
        BudgetError: it names a quality or a latency.
    """
    if budget.quality is not None:
        raise BudgetError(
            f"The budget {budget} asks for a quality, which `compare` measures: give sizes, e.g. W6A6; "
            "`mixqsam quantize` searches the smallest model of a quality."
        )
    if budget.latency is not None:
        raise BudgetError(
            f"The budget {budget} limits a latency, which `compare` does not measure: give sizes, e.g. W6A6; "
            "`mixqsam quantize` takes it."
        )


def _mixed_options(request: CompareRequest) -> Options:
    """The options with their preset, if there is one; its candidates are those of the first budget with a choice."""
    budget = next((budget for budget in request.budgets if budget.uniform is None), request.budgets[0])
    return apply_preset(request.options, budget)


def _begin(
    sam: Sam,
    samples: Sequence[Sample],
    *,
    request: CompareRequest,
    options: AnalysisOptions,
    images: int,
    session: Session,
) -> None:
    """Say what the comparison takes, and start to follow it."""
    speed, world = measure_speed(sam, prompts=sample_prompts(samples)), session.engine.world
    images_of_one = -(-len(samples) // world)
    passes = sum(find_recipe(choice).compensation is not None for choice in request.recipes)
    stages = analysis_stages(speed, sam, images=images_of_one, options=options, recipe_passes=passes)
    models = len(request.budgets) * len(request.modes)
    seconds = sum(
        quantization_stage(
            speed,
            images=len(samples),
            recipe=find_recipe(choice),
            options=request.options.quantization,
            models=models,
            is_calibrated=False,
        ).seconds
        for choice in request.recipes
    )
    seconds += len(request.recipes) * check_stage(speed, images=images, models=models).seconds
    stages.append(Stage("comparison", seconds / world))
    announce(stages, ["fewer --recipes or budgets", "--eval-limit 8"], session)
    begin_job(session.progress, stages)


def _write(comparison: Comparison, output: Path, *, overwrite: bool) -> None:
    with new_directory(output, overwrite=overwrite, marker=MARKER) as folder:
        write_json(folder / MARKER, comparison.to_json())
        write_bytes(folder / "comparison.csv", to_csv(comparison).encode())
        write_bytes(folder / "comparison.tex", to_latex(comparison).encode())
        write_bytes(folder / "comparison.md", to_markdown(comparison).encode())
        for name, content in figure(comparison).items():
            write_bytes(folder / name, content)


def _all(source: Source, session: Session) -> list[Sample]:
    return source.samples(count=None, progress=session.progress)


def _plan_models(
    choice: str | CustomRecipe, analysis: Analysis, request: CompareRequest, session: Session
) -> list[_Model]:
    recipe = find_recipe(choice)
    models = []
    for budget in request.budgets:
        options = apply_preset(request.options, budget).allocation
        chosen = run_allocation(analysis, budget, options=options, session=session)
        # A uniform budget leaves no choice: the model is the uniform one.
        uniform = nearest_uniform(analysis, chosen, keep=request.options.allocation.keep)
        by_mode: dict[Mode, Allocation | None] = {"uniform": uniform, "mixed": chosen}
        for mode in request.modes:
            if budget.uniform is not None and mode == "mixed":
                continue
            allocation = by_mode[mode]
            if allocation is None:
                session.progress.note(f"No uniform model fits {budget}; its row is left out.")
            else:
                models.append(_Model(choice, recipe, budget, mode, allocation))
    return models


class _Scores:
    """Quantizes and evaluates models, each once."""

    def __init__(
        self,
        sam: Sam,
        samples: Sequence[Sample],
        evaluated: Sequence[Sample],
        *,
        annotations: Path | None,
        request: CompareRequest,
        session: Session,
    ) -> None:
        self._sam, self._samples, self._evaluated = sam, samples, evaluated
        self._annotations, self._request, self._session = annotations, request, session
        self._key = digest(
            _VERSION,
            sam.fingerprint,
            [sample.digest() for sample in samples],
            [sample.labelled_digest() for sample in evaluated],
            annotations and digest_file(annotations),
        )

    def __call__(self, model: _Model) -> tuple[Mapping[str, Any], float]:
        """Return the evaluation result, as JSON, and the seconds of the quantization."""
        recipe = model.recipe
        settings = asdict(self._request.options.quantization.reconstruction) if recipe.method else None
        key = digest(self._key, recipe.key, settings, model.allocation.plan.to_json())
        scores = self._session.cache.get("comparison", key)
        if scores is None:
            label = f"{recipe.name}, {model.budget}, {model.mode}"
            self._session.progress.note(f"{label}: quantizing")
            started = monotonic()
            quantized = quantize_model(
                self._sam,
                model.allocation.plan,
                self._samples,
                options=replace(self._request.options.quantization, recipe=model.choice),
                session=self._session,
            )
            seconds = monotonic() - started
            results = self._evaluate({"quantized": quantized.sam})
            scores = {"report": results["quantized"].to_json(), "seconds": seconds}
            self._session.cache.put("comparison", key, scores)
            self._session.cache.put("comparison", self._key, results["float"].to_json())
        return scores["report"], float(scores["seconds"])

    def reference(self) -> Mapping[str, Any]:
        """Return the float model's evaluation result, as JSON."""
        result: Mapping[str, Any] | None = self._session.cache.get("comparison", self._key)
        return self._evaluate({})["float"].to_json() if result is None else result

    def _evaluate(self, models: Mapping[str, Sam]) -> dict[str, EvaluationResult]:
        predictors = {name: SamPredictor(sam) for name, sam in {"float": self._sam, **models}.items()}
        with self._session.timed("evaluation"):
            return evaluate(predictors, self._evaluated, annotations=self._annotations, progress=self._session.progress)


def _make_row(model: _Model, result: Mapping[str, Any], seconds: float) -> Row:
    allocation = model.allocation
    return Row(
        recipe=model.recipe.name,
        budget=model.budget.text,
        mode=model.mode,
        bits=allocation.budget.text if model.mode == "uniform" else "",
        size=allocation.size,
        bitops=allocation.bitops,
        ap=result["coco"]["ap"] if result["coco"] else None,
        truth_iou=result["truth_iou"],
        mean_iou=result["fidelity"]["mean_iou"],
        seconds=seconds,
    )


def _make_float_row(analysis: Analysis, result: Mapping[str, Any]) -> Row:
    costs = analysis.costs
    return Row(
        recipe="float",
        budget="",
        mode="float",
        bits="",
        size=costs.size(costs.float_plan),
        bitops=costs.bitops(costs.float_plan),
        ap=result["coco"]["ap"] if result["coco"] else None,
        truth_iou=result["truth_iou"],
        mean_iou=1.0,
        seconds=0.0,
    )


def _settings(request: CompareRequest) -> dict[str, Any]:
    options = _mixed_options(request)
    allocation, reconstruction = options.allocation, options.quantization.reconstruction
    return {
        **({"preset": write_preset(options.preset)} if options.preset else {}),
        "prompts of a calibration image": request.options.analysis.prompts,
        "utility": allocation.utility,
        "P_Y": allocation.output_distribution,
        "λ": allocation.synergy_weight,
        "bits": "tied" if allocation.tied else "free",
        "iterations of a piece": reconstruction.iterations,
        "seed": reconstruction.seed,
    }
