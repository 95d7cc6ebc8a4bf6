"""Compare recipes × budgets × (uniform, mixed) on one model and one data set; finished models are cached."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixqsam.data.samples import Sample, draw_calibration_samples
from mixqsam.directories import claim_directory, new_directory
from mixqsam.files import write_bytes, write_json
from mixqsam.measurements import Analysis
from mixqsam.parallel.engine import combine, take_share
from mixqsam.pipeline.compared_images import ComparedImages, choose_compared_images
from mixqsam.pipeline.compared_models import ComparedModel, check_request, find_mixed_options, plan_models
from mixqsam.pipeline.comparison_scores import Scores, make_float_row, make_row
from mixqsam.pipeline.estimate import (
    Pass,
    analysis_stages,
    announce,
    check_stage,
    measure_speed,
    quantization_stage,
    sample_prompts,
)
from mixqsam.pipeline.measurements import check_budget, select_measurements
from mixqsam.pipeline.options import AnalysisOptions, CompareRequest, Evaluation
from mixqsam.pipeline.presets import apply_preset, write_preset
from mixqsam.pipeline.recipe_analysis import adapt_analysis, count_fitted
from mixqsam.pipeline.session import Session, Source
from mixqsam.pipeline.stages import analyze_model, load_float, with_prompts
from mixqsam.progress import Stage, begin_job, following
from mixqsam.quantization.quantize import check_recipe
from mixqsam.quantization.recipes import find_recipe
from mixqsam.reporting.comparison import Comparison, to_csv
from mixqsam.reporting.comparison_figure import draw_figure
from mixqsam.reporting.comparison_tables import to_markdown
from mixqsam.reporting.latex import to_latex
from mixqsam.sam.load import Sam

MARKER = "comparison.json"


def run_comparison(
    model: str | Path,
    calibration: Source,
    evaluation: Evaluation,
    *,
    request: CompareRequest,
    output: Path,
    session: Session,
    overwrite: bool = False,
    keep_embeddings: bool = False,
) -> Comparison:
    """Quantize and evaluate the requested models, and write the tables and the figure.

    The cache stores every score and every finished piece of a reconstruction, so a stopped run resumes. A group of
    processes shares the images of the analysis, and then the models.

    Args:
        model: float checkpoint.
        calibration: images that recipes are calibrated on.
        evaluation: images of the comparison; by default those of `calibration` that the calibration does not use. Where
            it has boxes of several detectors, a model encodes each image once for all of them.
        request: recipes, budgets and modes.
        output: directory to write: `comparison.md`, `.csv`, `.tex`, `.json`, `.svg`, `.png`.
        session: cache and progress.
        overwrite: replace an existing comparison.
        keep_embeddings: cache the float model's image embeddings (4.2 MB an image for a full-size SAM), so that it
            encodes each image once for all models.

    Raises:
        InputError: an unknown recipe, or too few calibration images for one.
        BudgetError: a budget is malformed or cannot be met.
    """
    with claim_directory(output, overwrite=overwrite, marker=MARKER, is_main_process=session.engine.rank == 0):
        with following(session.progress):
            comparison = _compare(
                model, calibration, evaluation, request=request, session=session, keep_embeddings=keep_embeddings
            )
        if not session.engine.rank:
            _write(comparison, output, overwrite=overwrite)
    return comparison


def _compare(
    model: str | Path,
    calibration: Source,
    evaluation: Evaluation,
    *,
    request: CompareRequest,
    session: Session,
    keep_embeddings: bool,
) -> Comparison:
    recipes = [find_recipe(choice) for choice in request.recipes]
    check_request(request)
    sam = load_float(model, session)
    options = select_measurements(find_mixed_options(request), request.budgets)
    for budget in request.budgets:
        check_budget(sam, budget, apply_preset(request.options, budget))
    everything = calibration.samples(count=None, progress=session.progress)
    samples = draw_calibration_samples(
        everything, count=options.count, prompts=options.prompts, progress=session.progress, seed=options.seed
    )
    for recipe in recipes:
        check_recipe(recipe, images=len(samples))
    images = choose_compared_images(
        evaluation, calibration, everything=everything, used=samples, seed=options.seed, session=session
    )
    _begin(sam, samples, request=request, options=options, images=images, session=session)
    analysis = with_prompts(analyze_model(sam, samples, options=options, session=session), request.options.allocation)
    models = _choose_models(sam, samples, analysis, request=request, session=session)
    scores = Scores(sam, samples, images, request=request, session=session, keep_embeddings=keep_embeddings)
    share = take_share(session.engine, models)
    tracked = session.progress.track(share, label="Comparing", total=len(share))
    with session.timed("comparison"):
        share_rows = {index: make_row(chosen, *scores(chosen)) for index, chosen in tracked}
    return Comparison(
        str(model),
        len(samples),
        images.images,
        make_float_row(analysis, scores.reference()),
        combine(session.engine, share_rows, count=len(models)),
        _settings(request),
        prompts=images.prompts,
        prompt_kind=images.prompt_kind,
        detectors=images.detectors,
    )


def _choose_models(
    sam: Sam, samples: Sequence[Sample], analysis: Analysis, *, request: CompareRequest, session: Session
) -> list[ComparedModel]:
    """Choose the bits of all models, in the order of the recipes."""
    models: list[ComparedModel] = []
    # A solver that stops at its time limit may stop elsewhere in another process: rank 0 allocates for all.
    for choice in () if session.engine.rank else dict.fromkeys(request.recipes):
        own = adapt_analysis(analysis, sam, samples, recipe=find_recipe(choice), session=session)
        models += plan_models(choice, own, request, session)
    return session.engine.gather(models)[0]


def _begin(
    sam: Sam,
    samples: Sequence[Sample],
    *,
    request: CompareRequest,
    options: AnalysisOptions,
    images: ComparedImages,
    session: Session,
) -> None:
    """Say what the comparison takes, and start to follow it."""
    speed, world = measure_speed(sam, prompts=sample_prompts(samples)), session.engine.world
    images_of_one = -(-len(samples) // world)
    recipes = [find_recipe(choice) for choice in request.recipes]
    fitted = [count_fitted(recipe, sam, images=len(samples)) for recipe in recipes]
    passes = [Pass(images_of_one, finds_ranges=True), *(Pass(count) for count in fitted if count)]
    stages = analysis_stages(speed, sam, images=images_of_one, options=options, passes=passes)
    models = len(request.budgets) * len(request.modes)
    seconds = sum(
        quantization_stage(
            speed,
            images=len(samples),
            fitted=count,
            recipe=recipe,
            options=request.options.quantization,
            models=models,
            is_calibrated=False,
        ).seconds
        for recipe, count in zip(recipes, fitted, strict=True)
    )
    judging = measure_speed(sam, prompts=-(-images.prompts // max(1, images.images)))
    seconds += len(request.recipes) * check_stage(judging, images=images.images, models=models).seconds
    stages.append(Stage("comparison", seconds / world))
    fewer_images = ["--eval-limit 8"] if images.images > 8 else []
    announce(stages, ["fewer --recipes or budgets", *fewer_images], session)
    begin_job(session.progress, stages)


def _write(comparison: Comparison, output: Path, *, overwrite: bool) -> None:
    with new_directory(output, overwrite=overwrite, marker=MARKER) as folder:
        write_json(folder / MARKER, comparison.to_json())
        write_bytes(folder / "comparison.csv", to_csv(comparison).encode())
        write_bytes(folder / "comparison.tex", to_latex(comparison).encode())
        write_bytes(folder / "comparison.md", to_markdown(comparison).encode())
        for name, content in draw_figure(comparison).items():
            write_bytes(folder / name, content)


def _settings(request: CompareRequest) -> dict[str, Any]:
    options = find_mixed_options(request)
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
