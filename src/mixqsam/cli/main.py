"""The commands that make models: parsing; no logic."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixqsam.cli import deploying, judging
from mixqsam.cli.app import app
from mixqsam.cli.options import (
    Annotations,
    Batch,
    Bits,
    Budget,
    CacheFolder,
    Candidates,
    Count,
    Coupling,
    Detections,
    Device,
    EvalAnnotations,
    EvalBoxes,
    EvalImages,
    Free,
    Grid,
    Images,
    Iterations,
    Keep,
    Model,
    Observer,
    Output_,
    Overwrite,
    Pairs,
    Processes,
    Prompts,
    PromptsPerImage,
    Recipe_,
    Seed,
    SkipMissing,
    Synergy,
    TimeLimit,
    Utility_,
)
from mixqsam.cli.shared import shared

if TYPE_CHECKING:
    from mixqsam.cli.outcome import Outcome


@app.command()
@shared
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write.")] = Path("mixqsam-demo"),
    budget: Budget = "W4A4",
    cache: CacheFolder = None,
) -> "Outcome | None":
    """See it work: the embedded model on photographs that come with Python packages; about half a minute."""
    from mixqsam.cli import commands

    return commands.demo(output, budget=budget, cache=cache)


@app.command()
@shared
def quantize(
    images: Images,
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to write.")],
    model: Model = "sam-tiny",
    annotations: Annotations = None,
    boxes: Detections = None,
    grid: Grid = 4,
    skip_missing: SkipMissing = False,
    budget: Budget = "W4A4",
    count: Count = 32,
    prompts: Prompts = 4,
    recipe: Recipe_ = "omse",
    iterations: Iterations = 300,
    batch: Batch = 1,
    seed: Seed = 0,
    sensitivity_bits: Bits = "2,4,8",
    pairs: Pairs = True,
    prompts_per_image: PromptsPerImage = 1,
    output_distribution: Output_ = "bernoulli",
    utility: Utility_ = "exponential",
    synergy: Synergy = "proximity",
    coupling: Coupling = 0.0,
    free: Free = True,
    candidates: Candidates = "2-8",
    keep: Keep = None,
    time_limit: TimeLimit = 50.0,
    eval_images: EvalImages = None,
    eval_annotations: EvalAnnotations = None,
    eval_boxes: EvalBoxes = None,
    check: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Compare with float on so many images, 0 for none.  [default: 8 that the calibration leaves over, or "
            "all of --eval-images]",
            rich_help_panel="Images",
        ),
    ] = None,
    overwrite: Overwrite = False,
    cache: CacheFolder = None,
    device: Device = "cpu",
) -> "Outcome | None":
    """Do it all: analyse a model on images, choose bits under a budget, quantize, and write a directory."""
    from mixqsam.cli import commands, parsing

    return commands.quantize(
        model,
        parsing.data(images, annotations=annotations, detections=boxes, grid=grid, skip_missing=skip_missing),
        output=output,
        budget=budget,
        options=parsing.all_options(
            parsing.analysis_options(
                count,
                prompts,
                observer="omse",
                bits=sensitivity_bits,
                pairs=pairs,
                prompts_per_image=prompts_per_image,
                seed=seed,
            ),
            parsing.allocation_options(
                output_distribution,
                utility,
                synergy=synergy,
                coupling=coupling,
                free=free,
                candidates=candidates,
                keep=keep,
                time_limit=time_limit,
            ),
            parsing.quantization_options(recipe, iterations=iterations, batch=batch, seed=seed),
        ),
        checking=parsing.checking(
            parsing.optional_data(
                eval_images, annotations=eval_annotations, detections=eval_boxes, grid=grid, skip_missing=skip_missing
            ),
            limit=check,
        ),
        overwrite=overwrite,
        cache=cache,
        device=device,
    )


@app.command()
@shared
def recipes() -> "Outcome | None":
    """List the recipes: the ways to quantize, for --recipe and `compare`."""
    from mixqsam.cli import commands

    return commands.recipes()


@app.command()
@shared
def compare(
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to write.")],
    model: Model = "sam-tiny",
    images: Annotated[
        Path | None, typer.Option("--images", "-i", help="Folder of images; without it, the demonstration's.")
    ] = None,
    annotations: Annotations = None,
    boxes: Detections = None,
    grid: Grid = 4,
    skip_missing: SkipMissing = False,
    eval_images: EvalImages = None,
    eval_annotations: EvalAnnotations = None,
    eval_boxes: EvalBoxes = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Compare on so many images only.", rich_help_panel="Images")
    ] = None,
    recipes: Annotated[
        str, typer.Option("--recipes", "-r", help="Names, by commas, or all; `mixqsam recipes` lists them.")
    ] = "minmax,percentile,omse,ptq4sam-s",
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", "-b", help="As for quantize; may be repeated.  [default: W6A6, W4A4]"),
    ] = None,
    modes: Annotated[str, typer.Option(help="uniform, mixed, or both.")] = "uniform,mixed",
    count: Count = 32,
    prompts: Prompts = 4,
    iterations: Iterations = 300,
    batch: Batch = 1,
    seed: Seed = 0,
    sensitivity_bits: Bits = "2,4,8",
    prompts_per_image: PromptsPerImage = 1,
    output_distribution: Output_ = "bernoulli",
    utility: Utility_ = "exponential",
    synergy: Synergy = "proximity",
    coupling: Coupling = 0.0,
    free: Free = True,
    candidates: Candidates = "2-8",
    keep: Keep = None,
    time_limit: TimeLimit = 50.0,
    overwrite: Overwrite = False,
    cache: CacheFolder = None,
    device: Device = "cpu",
    processes: Processes = None,
) -> "Outcome | None":
    """Compare recipes at budgets, with uniform and with mixed bits: tables and a figure. Resumes where it was."""
    from mixqsam.cli import commands, parsing

    return commands.compare(
        model,
        parsing.optional_data(images, annotations=annotations, detections=boxes, grid=grid, skip_missing=skip_missing),
        parsing.optional_data(
            eval_images, annotations=eval_annotations, detections=eval_boxes, grid=grid, skip_missing=skip_missing
        ),
        recipes=recipes,
        budgets=budget or ["W6A6", "W4A4"],
        modes=modes,
        limit=limit,
        options=parsing.all_options(
            parsing.analysis_options(
                count,
                prompts,
                observer="omse",
                bits=sensitivity_bits,
                pairs=True,
                prompts_per_image=prompts_per_image,
                seed=seed,
            ),
            parsing.allocation_options(
                output_distribution,
                utility,
                synergy=synergy,
                coupling=coupling,
                free=free,
                candidates=candidates,
                keep=keep,
                time_limit=time_limit,
            ),
            parsing.quantization_options("omse", iterations=iterations, batch=batch, seed=seed),
        ),
        output=output,
        overwrite=overwrite,
        cache=cache,
        device=device,
        processes=processes,
    )


@app.command()
@shared
def analyze(
    images: Images,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file to write.")],
    model: Model = "sam-tiny",
    annotations: Annotations = None,
    boxes: Detections = None,
    grid: Grid = 4,
    skip_missing: SkipMissing = False,
    count: Count = 32,
    prompts: Prompts = 4,
    observer: Observer = "omse",
    sensitivity_bits: Bits = "2,4,8",
    pairs: Pairs = True,
    cache: CacheFolder = None,
    device: Device = "cpu",
    processes: Processes = None,
) -> "Outcome | None":
    """Measure importance, synergy and sensitivity of every unit; the file serves many allocations."""
    from mixqsam.cli import commands, parsing

    return commands.analyze(
        model,
        parsing.data(images, annotations=annotations, detections=boxes, grid=grid, skip_missing=skip_missing),
        output=output,
        options=parsing.analysis_options(
            count, prompts, observer=observer, bits=sensitivity_bits, pairs=pairs, prompts_per_image=1
        ),
        cache=cache,
        device=device,
        processes=processes,
    )


@app.command()
@shared
def allocate(
    analysis: Annotated[Path, typer.Argument(help="File of `mixqsam analyze`, or a quantized directory.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file to write.")],
    budget: Budget = "W4A4",
    prompts_per_image: PromptsPerImage = 1,
    output_distribution: Output_ = "bernoulli",
    utility: Utility_ = "exponential",
    synergy: Synergy = "proximity",
    coupling: Coupling = 0.0,
    free: Free = True,
    candidates: Candidates = "2-8",
    keep: Keep = None,
    time_limit: TimeLimit = 50.0,
) -> "Outcome | None":
    """Choose bits under a budget from a stored analysis; needs no model, takes seconds."""
    from mixqsam.cli import commands, parsing

    return commands.allocate(
        analysis,
        output=output,
        budget=budget,
        prompts_per_image=prompts_per_image,
        options=parsing.allocation_options(
            output_distribution,
            utility,
            synergy=synergy,
            coupling=coupling,
            free=free,
            candidates=candidates,
            keep=keep,
            time_limit=time_limit,
        ),
    )


for _other in (
    judging.detect,
    judging.evaluate,
    judging.evaluate_oriented,
    judging.evaluate_automatic,
    judging.evaluate_semantic,
    deploying.report,
    deploying.serve,
    deploying.predict,
    deploying.export,
    deploying.benchmark,
):
    app.command()(shared(_other))


def run() -> None:
    """Entry point of the command `mixqsam`."""
    app()
