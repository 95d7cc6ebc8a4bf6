"""What the commands do once their words are parsed; loaded only when one runs, for torch takes seconds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mixqsam.allocation.choose import Allocation
from mixqsam.cli.console import models_table, out, rows_table, show_table
from mixqsam.cli.parsing import one_of, session
from mixqsam.cli.tasks import quality
from mixqsam.data.images import open_image
from mixqsam.deployed.predictor import ENDINGS
from mixqsam.errors import AnnotationError, InputError
from mixqsam.files import write_bytes, write_json
from mixqsam.pipeline.benchmark import BACKENDS, installed_backends, run_benchmark
from mixqsam.pipeline.compare import MODES, Request, run_comparison
from mixqsam.pipeline.demo import DemoData, DemoEvaluation, run_demo
from mixqsam.pipeline.export import run_export
from mixqsam.pipeline.jobs import (
    run_analysis,
    run_quantization,
)
from mixqsam.pipeline.options import (
    AllocationOptions,
    AnalysisOptions,
    Data,
    Options,
)
from mixqsam.pipeline.stages import make_predictor, nearest_uniform, read_analysis, run_allocation
from mixqsam.plan import Analysis
from mixqsam.prompts import Prompts, clip_boxes
from mixqsam.quantization.recipes import RECIPES
from mixqsam.report.overlay import draw_overlay, mask_image, png_bytes


def demo(output: Path, *, budget: str, cache: Path | None) -> None:
    """`mixqsam demo`."""
    own = session(cache)
    found = run_demo(output, budget=budget, session=own)
    result = found.result
    _compare("Demonstration", result.analysis, result.allocation, found.reports)
    out.print(f"Quantized model: {result.directory}   (read {result.directory / 'summary.md'})")
    out.print(f"Picture: {found.overlay}")
    out.print("Seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in own.seconds.items()))
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
        session=session(cache, device),
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
    wanted = [one_of(mode.strip(), MODES, option="--modes") for mode in modes.split(",")]
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
        session=session(cache, device, processes=processes, group=True),
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
    own = session(cache, device, processes=processes, group=True)
    analysis = run_analysis(model, source, options=options, session=own)
    if own.engine.rank:
        return
    write_json(output, analysis.to_json())
    out.print(f"Written: {output} ({len(analysis.units)} units, {analysis.images} images)")
    out.print(f"Next: [bold]mixqsam allocate {output} --budget W4A4 -o allocation.json[/]")


def allocate(
    analysis_file: Path, *, output: Path, budget: str, prompts_per_image: int, options: AllocationOptions
) -> None:
    """`mixqsam allocate`."""
    analysis = read_analysis(analysis_file).with_prompts(prompts_per_image)
    allocation = run_allocation(analysis, budget, options=options, session=session(None))
    write_json(output, allocation.to_json())
    _compare(f"Budget {budget}", analysis, allocation, {})
    _proof(allocation)
    out.print(f"Written: {output}")


def predict(
    image: Path,
    *,
    model: str,
    boxes: Sequence[str],
    points: Sequence[str],
    output: Path,
    overlay: Path | None,
    backend: str | None,
) -> None:
    """`mixqsam predict`."""
    picture = open_image(image)
    prompts = _prompts(boxes, points, width=picture.width, height=picture.height)
    predictor = make_predictor(model, backend=backend)
    predictor.set_image(picture)
    prediction = predictor.segment(prompts)
    masks = prediction.masks[:, 0]
    write_bytes(output, png_bytes(mask_image(masks)))
    out.print(f"Written: {output}")
    if overlay is not None:
        write_bytes(overlay, png_bytes(draw_overlay(picture, masks, prompts)))
        out.print(f"Written: {overlay}")
    for index, (mask, score) in enumerate(zip(masks, prediction.scores[:, 0], strict=True), start=1):
        out.print(f"mask {index}: {int(mask.sum()):,} pixels, predicted IoU {float(score):.3f}")


def export(model: Path, *, output: Path, kind: str, single: bool, raw_image: bool, overwrite: bool) -> None:
    """`mixqsam export`."""
    found = run_export(
        model,
        output,
        kind=one_of(kind, list(ENDINGS), option="--format"),
        session=session(None),
        single=single,
        raw_image=raw_image,
        overwrite=overwrite,
    )
    for name, size in found.files.items():
        out.print(f"Written: {output / name} ({size / 1e6:.2f} MB)")
    reasons = Counter(found.float_units.values())
    for reason, count in reasons.items():
        first = next(name for name, why in found.float_units.items() if why == reason)
        out.print(f"{count} units compute with their quantized values in float arithmetic ({reason}), e.g. {first}")
    out.print(f"Next: [bold]mixqsam predict IMAGE --model {output} --box x1,y1,x2,y2[/]")


def benchmark(model: Path, *, backends: str, image: Path | None, runs: int, memory: bool, output: Path | None) -> None:
    """`mixqsam benchmark`."""
    names = [name.strip() for name in backends.split(",") if name.strip()] or installed_backends()
    found = run_benchmark(
        model,
        backends=[one_of(name, BACKENDS, option="--backends") for name in names],
        image=None if image is None else open_image(image),
        runs=runs,
        memory=memory,
        session=session(None),
    )
    rows = [
        [
            row.name,
            f"{row.encoder * 1e3:,.0f} ms",
            f"{row.speedup:.2f}×",
            f"{row.decoder * 1e3:,.0f} ms",
            "–" if row.memory is None else f"{row.memory / 1e9:.2f} GB",
            f"{row.file_bytes / 1e6:.2f} MB",
        ]
        for row in found.rows
    ]
    title = f"Medians of {runs} runs, image of {found.image[0]}×{found.image[1]}"
    show_table(title, ["", "image (encoder)", "speed", "prompt (decoder)", "peak memory", "files"], rows)
    out.print(f"In theory {found.size / 1e6:.2f} MB, {found.bitops / 1e9:,.0f} GBitOps per image")
    if output is not None:
        write_json(output, found.to_json())
        out.print(f"Written: {output}")


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
            rows[label] |= quality(reports["uniform"])
    rows["mixed"] = {"size": allocation.size, "bitops": allocation.bitops}
    if "mixed" in reports:
        rows["mixed"] |= quality(reports["mixed"])
    models_table(title, rows)


def _proof(allocation: Allocation) -> None:
    if allocation.objective is None:
        return
    state = "proven optimal" if allocation.gap == 0 else f"gap {allocation.gap:.2%}"
    out.print(
        f"Allocation: objective {allocation.value:.6g}, bound {allocation.bound:.6g}, {state}, "
        f"{allocation.seconds:.2f} s"
    )
