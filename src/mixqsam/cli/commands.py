"""What the commands that make models do once their words are parsed; loaded only when one runs: torch takes seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixqsam.allocation.choose import Allocation
from mixqsam.cli.console import Table, models_table, rows_table
from mixqsam.cli.outcome import Outcome
from mixqsam.cli.parsing import one_of, session
from mixqsam.cli.tasks import quality
from mixqsam.evaluation.run import Report
from mixqsam.files import write_json
from mixqsam.pipeline.compare import MODES, Request, run_comparison
from mixqsam.pipeline.demo import DemoData, DemoEvaluation, run_demo
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, Checking, Data, Options
from mixqsam.pipeline.quantize import PAGE, Result, run_quantization
from mixqsam.pipeline.report import run_report
from mixqsam.pipeline.stages import nearest_uniform, read_analysis, run_allocation, run_analysis
from mixqsam.plan import Analysis
from mixqsam.quantization.recipes import RECIPES


def demo(output: Path, *, budget: str, cache: Path | None) -> Outcome:
    """`mixqsam demo`."""
    found = run_demo(output, budget=budget, session=session(cache))
    told = _quantized("Demonstration", found.result)
    following = {
        "mixqsam quantize --model YOUR_SAM --images YOUR_FOLDER --budget W4A4 -o out": "the same with your model",
        f"mixqsam serve {found.result.directory}": "try it in the browser",
    }
    pictures = {found.overlay: "masks of float, uniform and mixed side by side"}
    return Outcome(told.data, told.tables, told.lines, {**told.made, **pictures}, following)


def quantize(
    model: str,
    source: Data,
    *,
    output: Path,
    budget: str,
    options: Options,
    checking: Checking,
    overwrite: bool,
    cache: Path | None,
    device: str,
) -> Outcome:
    """`mixqsam quantize`."""
    result = run_quantization(
        model,
        source,
        budget=budget,
        output=output,
        options=options,
        session=session(cache, device),
        overwrite=overwrite,
        checking=checking,
    )
    return _quantized(f"Budget {budget}", result)


def _quantized(title: str, result: Result) -> Outcome:
    folder = result.directory
    return Outcome(
        data={
            "directory": str(folder),
            "run": result.run.model_dump(),
            "allocation": _proof(result.allocation),
        },
        tables=[_models(_measured_on(title, result.check), result.analysis, result.allocation, result.check)],
        lines=[
            *_proven(result.allocation),
            "Seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in result.run.seconds.items()),
        ],
        made={
            folder: f"quantized model, {result.run.file_bytes / 1e6:.2f} MB; transformers and mixqsam load it",
            folder / PAGE: "report, for the browser",
            folder / "summary.md": "report, as text",
        },
        next={
            f"mixqsam evaluate {folder} --images FOLDER": "judge it on more images",
            f"mixqsam serve {folder}": "try it in the browser",
            f"mixqsam export {folder} --format onnx -o {folder}-onnx": "run it in ONNX Runtime (or openvino)",
        },
    )


def _measured_on(title: str, check: Mapping[str, Report]) -> str:
    return f"{title}; quality on {next(iter(check.values())).basis}" if check else title


def report(
    directories: Sequence[Path],
    source: Data | None,
    *,
    limit: int | None,
    reference: str | None,
    output: Path | None,
    cache: Path | None,
) -> Outcome:
    """`mixqsam report`."""
    page = run_report(directories, source, session=session(cache), limit=limit, reference=reference, output=output)
    following = {f"mixqsam serve {' '.join(map(str, directories))}": "try these models in the browser"}
    return Outcome(data={"report": str(page)}, made={page: "report, for the browser"}, next=following)


def recipes() -> Outcome:
    """`mixqsam recipes`."""
    rows = [[one.name, one.summary, one.source, str(one.least_images)] for one in RECIPES.values()]
    columns = ["name", "what it does", "source", "images, at least"]
    known = [
        {"name": one.name, "summary": one.summary, "source": one.source, "least_images": one.least_images}
        for one in RECIPES.values()
    ]
    return Outcome(
        data={"recipes": known},
        tables=[Table("Recipes", columns, rows, numbers=("images, at least",))],
        next={
            "mixqsam quantize --recipe NAME --images FOLDER -o out": "quantize by one of them",
            "mixqsam compare --recipes NAME,NAME --images FOLDER -o comparison": "see which is best for you",
        },
    )


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
) -> Outcome | None:
    """`mixqsam compare`."""
    names = list(RECIPES) if recipes == "all" else [name.strip() for name in recipes.split(",") if name.strip()]
    wanted = [one_of(mode.strip(), MODES, option="--modes") for mode in modes.split(",")]
    own = session(cache, device, processes=processes, group=True)
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
        session=own,
        overwrite=overwrite,
    )
    if own.engine.rank:
        return None
    rows = {"float": asdict(comparison.float_row)}
    rows |= {f"{row.recipe}, {row.budget}, {row.mode}": asdict(row) for row in comparison.rows}
    best = max(comparison.rows, key=lambda row: (row.ap or 0.0, row.mean_iou))
    following = f"mixqsam quantize --recipe {best.recipe} --budget {best.budget} --images FOLDER -o out"
    return Outcome(
        data=comparison.to_json(),
        tables=[rows_table(f"{comparison.evaluation} images", rows)],
        made={
            output / "comparison.md": "tables (also .csv and .json)",
            output / "comparison.svg": "quality against size and BitOps (also .png)",
        },
        next={following: "the best of these"},
    )


def analyze(
    model: str,
    source: Data,
    *,
    output: Path,
    options: AnalysisOptions,
    cache: Path | None,
    device: str,
    processes: int | None,
) -> Outcome | None:
    """`mixqsam analyze`."""
    own = session(cache, device, processes=processes, group=True)
    analysis = run_analysis(model, source, options=options, session=own)
    if own.engine.rank:
        return None
    write_json(output, analysis.to_json())
    return Outcome(
        data={"analysis": str(output), "units": len(analysis.units), "images": analysis.images},
        made={output: f"what {len(analysis.units)} units mean, measured on {analysis.images} images"},
        next={f"mixqsam allocate {output} --budget W4A4 -o allocation.json": "choose bits, without the model"},
    )


def allocate(
    analysis_file: Path, *, output: Path, budget: str, prompts_per_image: int, options: AllocationOptions
) -> Outcome:
    """`mixqsam allocate`."""
    analysis = read_analysis(analysis_file).with_prompts(prompts_per_image)
    allocation = run_allocation(analysis, budget, options=options, session=session(None))
    write_json(output, allocation.to_json())
    return Outcome(
        data={"allocation": allocation.to_json()},
        tables=[_models(f"Budget {budget}", analysis, allocation, {})],
        lines=_proven(allocation),
        made={output: "the bits of every unit"},
        next={f"mixqsam quantize --budget {budget} --images FOLDER -o out": "a model with these bits"},
    )


def _models(title: str, analysis: Analysis, allocation: Allocation, reports: Mapping[str, Report]) -> Table:
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
    if "float" in reports:
        rows["float"] |= quality(reports["float"])
    if "mixed" in reports:
        rows["mixed"] |= quality(reports["mixed"])
    return models_table(title, rows)


def _proof(allocation: Allocation) -> dict[str, Any]:
    return {name: value for name, value in allocation.to_json().items() if name != "plan"}


def _proven(allocation: Allocation) -> list[str]:
    if allocation.objective is None:
        return []
    state = "proven optimal" if allocation.gap == 0 else f"gap {allocation.gap:.2%}"
    return [
        f"Allocation: objective {allocation.value:.6g}, bound {allocation.bound:.6g}, {state}, "
        f"{allocation.seconds:.2f} s"
    ]
