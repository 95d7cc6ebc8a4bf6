"""What the commands do once their words are parsed; loaded only when one runs, for torch takes seconds."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.program import Utility
from mixqsam.boxes import Wishes
from mixqsam.cli.console import Bars, err, models_table, out, rows_table, show_table
from mixqsam.data.images import open_image
from mixqsam.errors import AnnotationError, BudgetError, InputError
from mixqsam.evaluation.run import Report
from mixqsam.files import Cache, default_cache, write_bytes, write_json
from mixqsam.numeric.observers import OBSERVERS
from mixqsam.parallel.engine import start
from mixqsam.pipeline.automatic import run_automatic
from mixqsam.pipeline.compare import MODES, Request, run_comparison
from mixqsam.pipeline.demo import DemoData, DemoEvaluation, run_demo
from mixqsam.pipeline.detect import run_detection
from mixqsam.pipeline.jobs import (
    float_costs,
    float_source,
    run_analysis,
    run_evaluation,
    run_quantization,
    stored_costs,
)
from mixqsam.pipeline.options import (
    AllocationOptions,
    AnalysisOptions,
    Data,
    Options,
    OrientedData,
    QuantizationOptions,
    SemanticData,
    Session,
)
from mixqsam.pipeline.semantic import run_semantic
from mixqsam.pipeline.stages import load, nearest_uniform, read_analysis, run_allocation
from mixqsam.plan import CANDIDATE_BITS, Analysis
from mixqsam.prompts import Prompts, clip_boxes
from mixqsam.quantization.recipes import RECIPES, find_recipe
from mixqsam.quantization.reconstruction.method import ReconstructionOptions
from mixqsam.report.overlay import draw_overlay, mask_image, png_bytes
from mixqsam.sam.automatic import Automatic
from mixqsam.sam.load import check_device
from mixqsam.sam.predictor import SamPredictor


def optional_data(images: Path | None, *, annotations: Path | None, detections: Path | None, grid: int) -> Data | None:
    """Images and prompts of a command that can do without.

    Raises:
        InputError: annotations or boxes without images.
    """
    if images is None and (annotations or detections):
        raise InputError("Annotations and boxes need the folder of their images.")
    return None if images is None else data(images, annotations=annotations, detections=detections, grid=grid)


def data(images: Path, *, annotations: Path | None, detections: Path | None, grid: int) -> Data:
    """Images and prompts of a command."""
    return Data(images, annotations, detections, grid)


def parse_candidates(text: str, *, option: str) -> tuple[int, ...]:
    """`2-8` or `2,4,8` → bit-widths, ascending; an empty text gives none.

    Raises:
        BudgetError: not whole numbers from 2 to 8.
    """
    found: set[int] = set()
    try:
        for part in filter(None, text.replace(" ", "").split(",")):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    except ValueError as error:
        raise BudgetError(f"{option} {text!r}: write bit-widths as 2-8 or 2,4,8.") from error
    if not found <= set(CANDIDATE_BITS):
        raise BudgetError(f"{option} {text!r}: bit-widths go from {CANDIDATE_BITS[0]} to {CANDIDATE_BITS[-1]}.")
    return tuple(sorted(found))


def _one_of(value: str, known: Sequence[str], *, option: str) -> str:
    if value not in known:
        raise InputError(f"{option} {value!r} is unknown; choose {', '.join(known)}.")
    return value


def analysis_options(
    count: int, prompts: int, *, observer: str, bits: str, pairs: bool, prompts_per_image: int
) -> AnalysisOptions:
    """Validated options of an analysis."""
    return AnalysisOptions(
        count=count,
        prompts=prompts,
        observer=_one_of(observer, list(OBSERVERS), option="--observer"),
        pairs=pairs,
        sensitivity_bits=parse_candidates(bits, option="--sensitivity-bits"),
        prompts_per_image=prompts_per_image,
    )


def allocation_options(
    output: str,
    utility: str,
    *,
    synergy: str,
    coupling: float,
    free: bool,
    candidates: str,
    keep: Sequence[str] | None,
    time_limit: float,
) -> AllocationOptions:
    """Validated options of an allocation."""
    known: tuple[Utility, ...] = get_args(Utility)
    _one_of(utility, known, option="--utility")
    bits = parse_candidates(candidates, option="--candidates")
    if not bits:
        raise BudgetError("--candidates names no bit-width.")
    return AllocationOptions(
        output=_one_of(output, ("bernoulli", "spatial"), option="--output-distribution"),
        utility=next(u for u in known if u == utility),
        synergy=_one_of(synergy, ("proximity", "interaction"), option="--synergy"),
        coupling=coupling,
        tied=not free,
        candidates=bits,
        keep=tuple(keep or ()),
        time_limit=time_limit,
    )


def quantization_options(recipe: str, *, iterations: int, batch: int, seed: int) -> QuantizationOptions:
    """Validated options of a quantization."""
    return QuantizationOptions(
        find_recipe(recipe).name, ReconstructionOptions(iterations=iterations, batch=batch, seed=seed)
    )


def all_options(analysis: AnalysisOptions, allocation: AllocationOptions, quantization: QuantizationOptions) -> Options:
    """The options of a whole job."""
    return Options(analysis, allocation, quantization)


def _session(cache: Path | None, device: str = "cpu", *, processes: int | None = None, group: bool = False) -> Session:
    """The session of a command; `group` where it may be one of several processes that torchrun launched."""
    check_device(device)
    if not group:
        return Session(Cache(cache or default_cache()), Bars(), device)
    engine = start(processes=processes, device=device)
    if engine.rank:
        # Rank 0 speaks for all.
        out.quiet = err.quiet = True
    own = getattr(engine, "device", device) if device == "cuda" else device
    return Session(Cache(cache or default_cache(), patient=engine.world > 1), Bars(), own, engine)


def demo(output: Path, *, budget: str, cache: Path | None) -> None:
    """`mixqsam demo`."""
    session = _session(cache)
    found = run_demo(output, budget=budget, session=session)
    result = found.result
    _compare("Demonstration", result.analysis, result.allocation, found.reports)
    out.print(f"Quantized model: {result.directory}   (read {result.directory / 'summary.md'})")
    out.print(f"Picture: {found.overlay}")
    out.print("Seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in session.seconds.items()))
    out.print("Next: [bold]mixqsam quantize --model YOUR_SAM --images YOUR_FOLDER --budget W4A4 -o out[/]")


def quantize(
    model: str,
    source: Data,
    *,
    output: Path,
    budget: str,
    options: Options,
    check: int,
    overwrite: bool,
    cache: Path | None,
    device: str,
) -> None:
    """`mixqsam quantize`."""
    result = run_quantization(
        model,
        source,
        budget=budget,
        output=output,
        options=options,
        session=_session(cache, device),
        overwrite=overwrite,
        check=check,
    )
    _compare(f"Budget {budget}", result.analysis, result.allocation, result.check)
    _proof(result.allocation)
    out.print(f"Written: {output} ({result.file_bytes / 1e6:.2f} MB of weights; read {output / 'summary.md'})")
    out.print(f"Next: [bold]mixqsam evaluate {output} --images FOLDER[/]")


def recipes() -> None:
    """`mixqsam recipes`."""
    rows = [[one.name, one.summary, one.source, str(one.least_images)] for one in RECIPES.values()]
    show_table("Recipes", ["name", "what it does", "source", "images, at least"], rows, numbers=("images, at least",))
    out.print("Details: docs/recipes/README.md. Next: [bold]mixqsam quantize --recipe NAME …[/]")


def compare(
    model: str,
    calibration: Data | None,
    evaluation: Data | None,
    *,
    recipes: str,
    budgets: Sequence[str],
    modes: str,
    limit: int | None,
    options: Options,
    output: Path,
    overwrite: bool,
    cache: Path | None,
    device: str,
    processes: int | None,
) -> None:
    """`mixqsam compare`."""
    names = list(RECIPES) if recipes == "all" else [name.strip() for name in recipes.split(",") if name.strip()]
    wanted = [_one_of(mode.strip(), MODES, option="--modes") for mode in modes.split(",")]
    comparison = run_comparison(
        model,
        calibration or DemoData(),
        evaluation or (None if calibration else DemoEvaluation()),
        request=Request(
            recipes=names,
            budgets=budgets,
            modes=[mode for mode in MODES if mode in wanted],
            limit=limit,
            options=options,
        ),
        output=output,
        session=_session(cache, device, processes=processes, group=True),
        overwrite=overwrite,
    )
    rows = {"float": asdict(comparison.float_row)}
    rows |= {f"{row.recipe}, {row.budget}, {row.mode}": asdict(row) for row in comparison.rows}
    rows_table(f"{comparison.evaluation} images", rows)
    best = max(comparison.rows, key=lambda row: (row.ap or 0.0, row.mean_iou))
    out.print(f"Written: {output} (comparison.md, .csv, .json, .svg, .png)")
    out.print(f"Next: [bold]mixqsam quantize --recipe {best.recipe} --budget {best.budget} … -o out[/]")


def analyze(
    model: str,
    source: Data,
    *,
    output: Path,
    options: AnalysisOptions,
    cache: Path | None,
    device: str,
    processes: int | None,
) -> None:
    """`mixqsam analyze`."""
    session = _session(cache, device, processes=processes, group=True)
    analysis = run_analysis(model, source, options=options, session=session)
    if session.engine.rank:
        return
    write_json(output, analysis.to_json())
    out.print(f"Written: {output} ({len(analysis.units)} units, {analysis.images} images)")
    out.print(f"Next: [bold]mixqsam allocate {output} --budget W4A4 -o allocation.json[/]")


def allocate(
    analysis_file: Path, *, output: Path, budget: str, prompts_per_image: int, options: AllocationOptions
) -> None:
    """`mixqsam allocate`."""
    analysis = read_analysis(analysis_file).with_prompts(prompts_per_image)
    allocation = run_allocation(analysis, budget, options=options, session=_session(None))
    write_json(output, allocation.to_json())
    _compare(f"Budget {budget}", analysis, allocation, {})
    _proof(allocation)
    out.print(f"Written: {output}")


def detect(
    detector: str,
    *,
    images: Path,
    annotations: Path,
    output: Path,
    score: float | None,
    top: int | None,
    nms: float | None,
    cache: Path | None,
    device: str,
) -> None:
    """`mixqsam detect`."""
    found = run_detection(
        detector,
        images=images,
        annotations=annotations,
        output=output,
        wishes=Wishes(score, top, nms),
        session=_session(cache, device),
    )
    count = len({one["image_id"] for one in found})
    out.print(f"Written: {output} ({len(found):,} boxes on {count:,} images)")
    out.print(f"Next: [bold]mixqsam evaluate OUT --images {images} --annotations {annotations} --boxes {output}[/]")


def evaluate(
    models: Sequence[str],
    source: Data,
    *,
    reference: str | None,
    limit: int | None,
    best_of_three: bool,
    keep_embeddings: bool,
    output: Path | None,
    cache: Path | None,
    device: str,
    processes: int | None,
) -> None:
    """`mixqsam evaluate`."""
    chosen = _with_reference(models, reference)
    session = _session(cache, device, processes=processes, group=True)
    reports = run_evaluation(
        chosen,
        source,
        limit=limit,
        session=session,
        best_of_three=best_of_three,
        keep_embeddings=keep_embeddings,
    )
    if session.engine.rank:
        return
    rows = {name: stored_costs(Path(chosen[name])) | _quality(report) for name, report in reports.items()}
    known = next((float_costs(Path(model)) for model in models if stored_costs(Path(model))), {})
    rows["float"] = known | rows["float"]
    some = next(iter(reports.values()))
    models_table(f"{some.images} images, {some.prompts} prompts", rows)
    if output is not None:
        write_json(output, {name: report.to_json() for name, report in reports.items()})
        out.print(f"Written: {output}")


def oriented_data(
    images: Path, labels: Path, *, boxes: Path | None, tile: int, overlap: int, merge: float
) -> OrientedData:
    """An oriented data set of a command.

    Raises:
        InputError: the overlap does not fit the tile.
    """
    if overlap >= tile:
        raise InputError(f"--overlap {overlap} does not fit tiles of {tile} pixels; it has to be smaller.")
    return OrientedData(images, labels, boxes, tile, overlap, merge)


def evaluate_oriented(
    models: Sequence[str],
    source: OrientedData,
    *,
    limit: int | None,
    submission: Path | None,
    output: Path | None,
    device: str,
) -> None:
    """`mixqsam evaluate-oriented`."""
    # Only this command needs the geometry library, which is an extra.
    from mixqsam.pipeline.oriented import run_oriented

    found = run_oriented(
        {model: model for model in models},
        source,
        session=_session(None, device),
        limit=limit,
        submission=submission,
    )
    models_table("Oriented detection", {name: asdict(scores) for name, scores in found.items()})
    if output is not None:
        write_json(output, {name: asdict(scores) for name, scores in found.items()})
        out.print(f"Written: {output}")
    if submission is not None:
        out.print(f"Written: {submission} (Task1_<category>.txt of each model, for the DOTA server)")


def automatic_options(side: int, *, predicted_iou: float, stability: float, overlap: float) -> Automatic:
    """How masks are made when everything is segmented."""
    return Automatic(side, predicted_iou, stability, overlap)


def evaluate_automatic(
    models: Sequence[str],
    source: Data,
    *,
    reference: str | None,
    options: Automatic,
    limit: int | None,
    output: Path | None,
    device: str,
) -> None:
    """`mixqsam evaluate-automatic`."""
    chosen = _with_reference(models, reference)
    found = run_automatic(chosen, source, options=options, session=_session(None, device), limit=limit)
    models_table(
        f"Segment everything, {next(iter(found.values())).images} images",
        {name: asdict(scores) for name, scores in found.items()},
    )
    if output is not None:
        write_json(output, {name: asdict(scores) for name, scores in found.items()})
        out.print(f"Written: {output}")


def _with_reference(models: Sequence[str], reference: str | None) -> dict[str, str]:
    """The float model first: the one that is named, or the one that the first model was made from."""
    chosen = {"float": reference or (float_source(Path(models[0])) if Path(models[0]).is_dir() else models[0])}
    return chosen | {model: model for model in models if model != chosen["float"]}


def semantic_data(images: Path, labels: Path, *, prompts: str, background: int | None, least: int) -> SemanticData:
    """A data set of label maps of a command."""
    return SemanticData(images, labels, _one_of(prompts, ("boxes", "points"), option="--prompts"), background, least)


def evaluate_semantic(
    models: Sequence[str], source: SemanticData, *, limit: int | None, output: Path | None, device: str
) -> None:
    """`mixqsam evaluate-semantic`."""
    found = run_semantic({model: model for model in models}, source, session=_session(None, device), limit=limit)
    models_table("Semantic segmentation", {name: asdict(scores) for name, scores in found.items()})
    if output is not None:
        write_json(output, {name: asdict(scores) for name, scores in found.items()})
        out.print(f"Written: {output}")


def predict(
    image: Path,
    *,
    model: str,
    boxes: Sequence[str],
    points: Sequence[str],
    output: Path,
    overlay: Path | None,
) -> None:
    """`mixqsam predict`."""
    picture = open_image(image)
    prompts = _prompts(boxes, points, width=picture.width, height=picture.height)
    predictor = SamPredictor(load(model))
    predictor.set_image(picture)
    prediction = predictor.predict(prompts)
    masks = prediction.masks[:, 0]
    write_bytes(output, png_bytes(mask_image(masks)))
    out.print(f"Written: {output}")
    if overlay is not None:
        write_bytes(overlay, png_bytes(draw_overlay(picture, masks, prompts)))
        out.print(f"Written: {overlay}")
    for index, (mask, score) in enumerate(zip(masks, prediction.scores[:, 0], strict=True), start=1):
        out.print(f"mask {index}: {int(mask.sum()):,} pixels, predicted IoU {float(score):.3f}")


def _prompts(boxes: Sequence[str], points: Sequence[str], *, width: int, height: int) -> Prompts:
    if bool(boxes) == bool(points):
        raise InputError("Give --box (one or more) or --point (one or more), and not both.")
    if boxes:
        corners = np.array([_numbers(box, "--box", (4,)) for box in boxes])
        return Prompts(boxes=clip_boxes(corners, width=width, height=height, source="--box"))
    numbers = [_numbers(point, "--point", (2, 3)) for point in points]
    places = np.array([n[:2] for n in numbers])
    if (places < 0).any() or (places >= (width, height)).any():
        raise AnnotationError(f"--point: a point lies outside the image of {width}×{height} pixels.")
    labels = np.array([int(n[2]) if len(n) == 3 else 1 for n in numbers], dtype=np.int64)
    if not set(labels.tolist()) <= {0, 1}:
        raise AnnotationError("--point: the label is 1 (object) or 0 (background).")
    return Prompts(points=places[None], labels=labels[None])


def _numbers(text: str, option: str, counts: tuple[int, ...]) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts or not np.isfinite(values).all():
        form = "x1,y1,x2,y2" if counts == (4,) else "x,y or x,y,label"
        raise AnnotationError(f"{option} {text!r}: write {form}.")
    return values


def _quality(report: Report) -> dict[str, Any]:
    coco = report.coco
    scores: dict[str, Any] = {} if coco is None else asdict(coco)
    scores["truth_iou"] = report.truth_iou
    if report.fidelity is not None:
        scores |= {"mean_iou": report.fidelity.mean_iou, "kl": report.fidelity.kl["bernoulli"]}
    return scores


def _compare(title: str, analysis: Analysis, allocation: Allocation, reports: Any) -> None:
    costs = analysis.costs
    rows: dict[str, dict[str, Any]] = {
        "float": {"size": costs.size(costs.float_plan), "bitops": costs.bitops(costs.float_plan)}
    }
    uniform = nearest_uniform(analysis, allocation)
    if uniform is not None:
        label = f"uniform {uniform.budget.text}"
        rows[label] = {"size": uniform.size, "bitops": uniform.bitops}
        if "uniform" in reports:
            rows[label] |= _quality(reports["uniform"])
    rows["mixed"] = {"size": allocation.size, "bitops": allocation.bitops}
    if "mixed" in reports:
        rows["mixed"] |= _quality(reports["mixed"])
    models_table(title, rows)


def _proof(allocation: Allocation) -> None:
    if allocation.objective is None:
        return
    state = "proven optimal" if allocation.gap == 0 else f"gap {allocation.gap:.2%}"
    out.print(
        f"Allocation: objective {allocation.value:.6g}, bound {allocation.bound:.6g}, {state}, "
        f"{allocation.seconds:.2f} s"
    )
