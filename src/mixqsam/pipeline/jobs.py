"""The jobs that users start: analyze, quantize, evaluate."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mixqsam.allocation.budget import parse_bits
from mixqsam.allocation.choose import Allocation, check_request
from mixqsam.artifact.manifest import Manifest
from mixqsam.artifact.store import CONFIG, save_model
from mixqsam.deployed.predictor import backend_of
from mixqsam.errors import BudgetError, ModelError
from mixqsam.evaluation.run import Kept, Report, evaluate
from mixqsam.files import check_new_directory, digest, digest_file, new_directory, read_json, write_bytes, write_json
from mixqsam.pipeline.options import AnalysisOptions, Options, Session, Source
from mixqsam.pipeline.stages import (
    analyze_model,
    calibration_samples,
    load,
    make_predictor,
    nearest_uniform,
    quantize_model,
    read_analysis,
    run_allocation,
)
from mixqsam.plan import Analysis
from mixqsam.prediction import Predictor
from mixqsam.quantization.recipes import find_recipe
from mixqsam.quantization.run import Quantized, check_recipe
from mixqsam.report.summary import write_summary
from mixqsam.sam.load import Sam, load_sam
from mixqsam.sam.predictor import SamPredictor

MARKER = "allocation.json"
# Raised when what a record of the evaluation means changes, so that old ones in the cache are not taken for new.
_RECORDS = 1


def run_analysis(model: str | Path, data: Source, *, options: AnalysisOptions, session: Session) -> Analysis:
    """From a model and images to an analysis."""
    sam = load_sam(model, device=session.device)
    samples = calibration_samples(data, options, session)
    return analyze_model(sam, samples, options=options, session=session)


@dataclass(frozen=True)
class Result:
    """A finished quantization.

    Attributes:
        directory: what was written.
        analysis, allocation: what led to it.
        uniform: the largest uniform model within the budget, if any.
        file_bytes: of `model.safetensors`.
        check: name → report on a few calibration images; empty if not wanted.
    """

    directory: Path
    analysis: Analysis
    allocation: Allocation
    uniform: Allocation | None
    file_bytes: int
    check: Mapping[str, Report]


def run_quantization(
    model: str | Path,
    data: Source,
    *,
    budget: str,
    output: Path,
    options: Options,
    session: Session,
    overwrite: bool = False,
    check: int = 4,
) -> Result:
    """The main job: a float model, images and a budget in; a quantized directory out.

    Args:
        model: float checkpoint.
        data: calibration images.
        budget: see `mixqsam.allocation.budget.HELP`.
        output: the directory to write, whole or not at all.
        options: how; what the allocation does not look at is not measured, and the recipe's observer is the
            analysis's too.
        session: cache and progress.
        overwrite: replace a directory that mixqsam wrote before.
        check: compare with the float model on so many calibration images.
    """
    check_new_directory(output, overwrite=overwrite, marker=MARKER)
    recipe = find_recipe(options.quantization.recipe)
    measured = replace(needed(options), observer=recipe.observer)
    with session.timed("loading"):
        sam = load_sam(model, device=session.device)
        samples = calibration_samples(data, measured, session)
    check_recipe(recipe, images=len(samples))
    check_budget(sam, budget, options)
    analysis = analyze_model(sam, samples, options=measured, session=session)
    analysis = analysis.with_extra_bytes(recipe.extra_bytes(analysis.units))
    allocation = run_allocation(analysis, budget, options=options.allocation, session=session)
    uniform = nearest_uniform(analysis, allocation)
    quantized = quantize_model(sam, allocation.plan, samples, options=options.quantization, session=session)
    reports: dict[str, Report] = {}
    if check:
        with session.timed("check"):
            models = {"float": sam, "mixed": quantized.sam}
            if uniform is not None and recipe.method is None:
                # A second reconstruction would double the time; `mixqsam compare` is there for that.
                models["uniform"] = quantize_model(
                    sam, uniform.plan, samples, options=options.quantization, session=session
                ).sam
            predictors = {name: SamPredictor(one) for name, one in models.items()}
            reports = evaluate(predictors, samples[:check], annotations=None, progress=session.progress)
    file_bytes = _write(
        quantized,
        output,
        analysis=analysis,
        allocation=allocation,
        uniform=uniform,
        reports=reports,
        recipe=recipe.name,
        session=session,
        overwrite=overwrite,
    )
    return Result(output, analysis, allocation, uniform, file_bytes, reports)


def needed(options: Options) -> AnalysisOptions:
    """Only what the allocation will look at: measuring is what takes the time."""
    analysis, allocation = options.analysis, options.allocation
    return replace(
        analysis,
        pairs=analysis.pairs and allocation.coupling > 0 and allocation.synergy == "interaction",
        sensitivity_bits=analysis.sensitivity_bits if allocation.utility == "measured" else (),
    )


def check_budget(sam: Sam, budget: str, options: Options) -> None:
    """Fail before the long work, not after it.

    Raises:
        BudgetError: the budget cannot be understood or met.
    """
    costs, allocation = sam.costs(prompts_per_image=options.analysis.prompts_per_image), options.allocation
    if budget.startswith("uniform:"):
        parse_bits(budget.removeprefix("uniform:"))
    else:
        check_request(costs, budget, candidates=allocation.candidates, tied=allocation.tied, keep=allocation.keep)
    if allocation.utility == "measured" and not options.analysis.sensitivity_bits:
        raise BudgetError("--utility measured needs --sensitivity-bits, e.g. 2,4,8.")


def _write(
    quantized: Quantized,
    output: Path,
    *,
    analysis: Analysis,
    allocation: Allocation,
    uniform: Allocation | None,
    reports: Mapping[str, Report],
    recipe: str,
    session: Session,
    overwrite: bool,
) -> int:
    manifest = Manifest.of(
        quantized.sam,
        allocation.plan,
        recipe=recipe,
        prompts_per_image=analysis.costs.prompts_per_image,
    )
    with session.timed("writing"), new_directory(output, overwrite=overwrite, marker=MARKER) as folder:
        file_bytes = save_model(quantized.sam, manifest, folder)
        write_json(folder / "analysis.json", analysis.to_json())
        write_json(folder / MARKER, allocation.to_json())
        text = write_summary(
            analysis,
            plan=allocation.plan,
            facts=_facts(analysis, allocation, uniform=uniform, file_bytes=file_bytes, reports=reports)
            | {"recipe": recipe, "reconstruction": [asdict(log) for log in quantized.logs]},
            seconds=session.seconds,
        )
        write_bytes(folder / "summary.md", text.encode())
    return file_bytes


def _facts(
    analysis: Analysis,
    allocation: Allocation,
    *,
    uniform: Allocation | None,
    file_bytes: int,
    reports: Mapping[str, Report],
) -> dict[str, Any]:
    costs = analysis.costs
    plans = {"float": costs.float_plan, "uniform": uniform.plan if uniform else None, "mixed": allocation.plan}
    models = {
        name: {
            "size": costs.size(plan),
            "bitops": costs.bitops(plan),
            "bits": uniform.budget.text if uniform and name == "uniform" else "",
            "mean_iou": report.fidelity.mean_iou if (report := reports.get(name)) and report.fidelity else None,
        }
        for name, plan in plans.items()
        if plan is not None
    }
    return {"models": models, "allocation": allocation.to_json(), "file_bytes": file_bytes}


def run_evaluation(
    models: Mapping[str, str | Path],
    data: Source,
    *,
    limit: int | None,
    session: Session,
    best_of_three: bool = False,
    keep_embeddings: bool = False,
) -> dict[str, Report]:
    """Evaluate models side by side; the first is the reference. With annotations, COCO mask AP as well.

    Each image's records are kept as soon as they are known, so that a stopped run goes on, and a model that is
    evaluated again is not run again.

    Args:
        models: name → float model, quantized directory, or exported directory.
        data: images and prompts.
        limit: only the first so many images.
        session: cache, progress, device, group of processes.
        best_of_three: let the models choose among three masks.
        keep_embeddings: keep the reference's image embeddings (4.2 MB an image for a full-size SAM) for the next model
            that is compared with it.
    """
    samples = data.samples(count=limit, progress=session.progress)[:limit]
    loaded = {name: _loaded(source, session) for name, source in models.items()}
    truth = None if data.annotations is None else digest_file(data.annotations)
    reference, first = next(iter(loaded.values()))
    if keep_embeddings and isinstance(first, SamPredictor):
        first.embeddings = session.cache.root / "embeddings"
    keys = {name: digest(_RECORDS, key, reference, truth, best_of_three) for name, (key, _) in loaded.items()}
    predictors = {name: predictor for name, (_, predictor) in loaded.items()}
    return evaluate(
        predictors,
        samples,
        annotations=data.annotations,
        progress=session.progress,
        best_of_three=best_of_three,
        engine=session.engine,
        kept=Kept(session.cache, keys),
    )


def _loaded(source: str | Path, session: Session) -> tuple[str, Predictor]:
    """A model's fingerprint and its predictor: quantization is simulated, except in exported files."""
    path = Path(source).expanduser()
    if backend_of(path):
        files = sorted(one for one in path.iterdir() if one.is_file())
        return digest([digest_file(one) for one in files]), make_predictor(path)
    sam = load(source, device=session.device)
    return sam.fingerprint, SamPredictor(sam)


def float_source(directory: Path) -> str:
    """The float model that a quantized directory was made from, as its user named it.

    Raises:
        ModelError: the directory is not one that `quantize` wrote.
    """
    if backend := backend_of(directory):
        raise ModelError(f"{directory} holds files for {backend}; name the float model beside it with --float.")
    values = read_json(directory / CONFIG, what="the configuration of a quantized model")
    try:
        return str(values["quantization_config"]["source"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{directory} was not made by mixqsam; name the float model with --float.") from error


def stored_costs(directory: Path) -> dict[str, float]:
    """`size` and `bitops` of a quantized directory; nothing for any other path."""
    if not (directory / MARKER).is_file():
        return {}
    allocation = Allocation.from_json(read_json(directory / MARKER, what="an allocation"), source=str(directory))
    return {"size": allocation.size, "bitops": allocation.bitops}


def float_costs(directory: Path) -> dict[str, float]:
    """`size` and `bitops` of the float model that a quantized directory was made from."""
    costs = read_analysis(directory).costs
    return {"size": costs.size(costs.float_plan), "bitops": costs.bitops(costs.float_plan)}
