"""Commands that make models. Only their bodies import modules that load torch."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from mixqsam.cli.command import command, line
from mixqsam.cli.console import Table
from mixqsam.cli.following import (
    after_allocation,
    after_comparison,
    after_quantization,
    data_values,
    evaluation_values,
    new_path,
)
from mixqsam.cli.options import (
    Cache,
    Device,
    ImageSize,
    KeepEmbeddings,
    Model,
    OptionalData,
    OutputDirectory,
    Overwrite,
    Processes,
    RequiredFile,
)
from mixqsam.cli.outcome import Outcome
from mixqsam.options.fields import Option
from mixqsam.options.flat import flat_values
from mixqsam.options.frames import with_frame
from mixqsam.options.names import DEMO_FOLDER
from mixqsam.pipeline.options import (
    AllocationOptions,
    AnalysisOptions,
    BudgetValue,
    CompareRequest,
    Data,
    EvaluationOptions,
    JobOptions,
)


@command()
def demo(
    *,
    output: Annotated[Path, Option("Folder to write into.", flags=("--output", "-o"))] = Path(DEMO_FOLDER),
    model: Annotated[
        str | None,
        Option("As for quantize.", flags=("--model", "-m"), default_help="mobile-sam, or sam-tiny without a network"),
    ] = None,
    budget: BudgetValue = "W6A6",
    cache: Cache = None,
) -> Outcome:
    """Run a demonstration: MobileSAM on photographs of installed Python packages, in a few minutes."""
    from mixqsam.cli.quantized import describe_quantization
    from mixqsam.cli.session import open_session
    from mixqsam.pipeline.demo import run_demo

    demonstration = run_demo(output, budget=budget, session=open_session(cache), model=model)
    following = {
        "mixqsam quantize --model YOUR_SAM --images YOUR_FOLDER --budget W4A4 -o out": "the same with your model",
        line("serve", {"models": [str(demonstration.result.directory)]}): "try it in the browser",
    }
    outcome = describe_quantization("Demonstration", demonstration.result, following)
    pictures = {demonstration.overlay: "masks of all these models side by side"}
    return replace(outcome, made={**outcome.made, **pictures})


@command(reads_config=True)
def quantize(
    *,
    images: Data,
    output: OutputDirectory,
    model: Model = "sam-tiny",
    image_size: ImageSize = None,
    budget: BudgetValue = "W4A4",
    options: JobOptions,
    evaluation: EvaluationOptions,
    allocation: Annotated[
        Path | None,
        Option(
            "Make exactly the bits of this file of `mixqsam allocate`, or of this quantized directory.",
            is_advanced=True,
        ),
    ] = None,
    overwrite: Overwrite = False,
    cache: Cache = None,
    device: Device = "cpu",
) -> Outcome:
    """Quantize a model: analyse it on images, choose bits under a budget, and write a directory."""
    from mixqsam.cli.quantized import describe_quantization
    from mixqsam.cli.session import open_session
    from mixqsam.pipeline.quantize import run_quantization

    result = run_quantization(
        with_frame(model, image_size),
        images,
        budget=budget,
        output=output,
        options=options,
        session=open_session(cache, device),
        overwrite=overwrite,
        evaluation=evaluation,
        allocation=allocation,
    )
    title = f"Budget {budget}" if allocation is None else f"Bits of {allocation}"
    following = after_quantization(output, images=evaluation.data or images, cache=cache, device=device)
    return describe_quantization(title, result, following)


@command()
def recipes() -> Outcome:
    """List the recipes: the ways to quantize, for --recipe and `compare`."""
    from mixqsam.quantization.recipes import RECIPES

    rows = [[recipe.name, recipe.summary, recipe.source, str(recipe.least_images)] for recipe in RECIPES.values()]
    columns = ["name", "what it does", "source", "images, at least"]
    known = [
        {
            "name": recipe.name,
            "summary": recipe.summary,
            "source": recipe.source,
            "least_images": recipe.least_images,
        }
        for recipe in RECIPES.values()
    ]
    return Outcome(
        data={"recipes": known},
        tables=[Table("Recipes", columns, rows, numbers=("images, at least",))],
        next={
            "mixqsam quantize --recipe NAME --images FOLDER -o out": "quantize by one of them",
            "mixqsam compare --recipes NAME,NAME --images FOLDER -o comparison": "see which is best for you",
        },
    )


@command(reads_config=True)
def compare(
    *,
    output: OutputDirectory,
    request: CompareRequest,
    model: Model = "sam-tiny",
    image_size: ImageSize = None,
    images: OptionalData = None,
    evaluation: EvaluationOptions,
    keep_embeddings: KeepEmbeddings = False,
    overwrite: Overwrite = False,
    cache: Cache = None,
    device: Device = "cpu",
    processes: Processes = None,
) -> Outcome | None:
    """Compare recipes at budgets, with uniform and with mixed bits: tables and a figure. A stopped run resumes."""
    from mixqsam.cli.session import open_session
    from mixqsam.cli.tables import comparison_table
    from mixqsam.pipeline.compare import run_comparison
    from mixqsam.pipeline.demo import DemoData, DemoEvaluation

    session = open_session(cache, device, processes=processes, is_group=True)
    if images is None and evaluation.data is None:
        evaluation = replace(evaluation, data=DemoEvaluation())
    comparison = run_comparison(
        with_frame(model, image_size),
        images or DemoData(),
        evaluation,
        request=request,
        output=output,
        session=session,
        overwrite=overwrite,
        keep_embeddings=keep_embeddings,
    )
    if session.engine.rank:
        return None
    best = max(comparison.rows, key=lambda row: (row.ap or 0.0, row.mean_iou))
    options: dict[str, Any] = {"model": model, "image_size": image_size, "cache": cache, "device": device}
    options |= data_values(images)
    options |= flat_values(request.options) | evaluation_values(evaluation)
    recipe = next((name for name in request.recipes if name == best.recipe), None)
    return Outcome(
        data=comparison.to_json(),
        tables=[comparison_table(comparison)],
        made={
            output / "comparison.md": "tables (also .csv, .tex and .json)",
            output / "comparison.svg": "quality against size and BitOps (also .png)",
        },
        next=after_comparison(recipe, best.budget, uniform=best.bits, values=options),
    )


@command(reads_config=True)
def analyze(
    *,
    images: Data,
    output: RequiredFile,
    model: Model = "sam-tiny",
    image_size: ImageSize = None,
    options: AnalysisOptions,
    cache: Cache = None,
    device: Device = "cpu",
    processes: Processes = None,
) -> Outcome | None:
    """Measure importance, synergy and sensitivity of every unit; the file serves many allocations."""
    from mixqsam.cli.session import open_session
    from mixqsam.files import write_json
    from mixqsam.pipeline.analyze import run_analysis
    from mixqsam.pipeline.provenance import record_analysis_options

    session = open_session(cache, device, processes=processes, is_group=True)
    source = with_frame(model, image_size)
    analysis = run_analysis(source, images, options=options, session=session)
    if session.engine.rank:
        return None
    write_json(output, {**analysis.to_json(), "options": record_analysis_options(source, images, options, device)})
    next_options = {"analysis": str(output), "budget": "W4A4", "output": new_path("allocation.json")}
    return Outcome(
        data={"analysis": str(output), "units": len(analysis.units), "images": analysis.images},
        made={output: f"what {len(analysis.units)} units mean, measured on {analysis.images} images"},
        next={line("allocate", next_options): "choose bits, without the model"},
    )


@command(reads_config=True)
def allocate(
    *,
    analysis: Annotated[Path, Option("File of `mixqsam analyze`, or a quantized directory.", is_argument=True)],
    output: RequiredFile,
    budget: BudgetValue = "W4A4",
    options: AllocationOptions,
    cache: Cache = None,
) -> Outcome:
    """Choose bits under a budget from a stored analysis, in seconds and without the model."""
    from mixqsam.allocation.uniform import nearest_uniform
    from mixqsam.cli.session import open_session
    from mixqsam.cli.tables import allocation_table, proof
    from mixqsam.files import write_json
    from mixqsam.pipeline.provenance import read_origin
    from mixqsam.pipeline.stages import read_analysis, run_allocation, with_prompts
    from mixqsam.pipeline.unit_times import add_times

    session = open_session(cache)
    measured = add_times(with_prompts(read_analysis(analysis), options), budget, session.cache)
    allocation = run_allocation(measured, budget, options=options, session=session)
    write_json(output, allocation.to_json())
    uniform = nearest_uniform(measured, allocation, keep=options.keep)
    origin = {"model": measured.model, **read_origin(analysis)}
    if options.prompts_per_image is not None:
        origin["prompts_per_image"] = options.prompts_per_image
    return Outcome(
        data={"allocation": allocation.to_json()},
        tables=[allocation_table(f"Budget {budget}", measured, allocation, uniform, {})],
        lines=proof(allocation),
        made={output: "the bits of every unit"},
        next=after_allocation(output, origin=origin),
    )
