"""The commands that make models and use them: parsing; no logic."""

from pathlib import Path
from typing import Annotated

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
    Synergy,
    TimeLimit,
    Utility_,
)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write.")] = Path("mixqsam-demo"),
    budget: Budget = "W4A4",
    cache: CacheFolder = None,
) -> None:
    """See it work: the embedded model on photographs that come with Python packages; about half a minute."""
    from mixqsam.cli import commands

    commands.demo(output, budget=budget, cache=cache)


@app.command()
def quantize(
    images: Images,
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to write.")],
    model: Model = "sam-tiny",
    annotations: Annotations = None,
    boxes: Detections = None,
    grid: Grid = 4,
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
    check: Annotated[int, typer.Option(min=0, help="Compare with float on so many calibration images.")] = 4,
    overwrite: Overwrite = False,
    cache: CacheFolder = None,
    device: Device = "cpu",
) -> None:
    """Do it all: analyse a model on images, choose bits under a budget, quantize, and write a directory."""
    from mixqsam.cli import commands, parsing

    commands.quantize(
        model,
        parsing.data(images, annotations=annotations, detections=boxes, grid=grid),
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
        check=check,
        overwrite=overwrite,
        cache=cache,
        device=device,
    )


@app.command()
def recipes() -> None:
    """List the recipes: the ways to quantize, for --recipe and `compare`."""
    from mixqsam.cli import commands

    commands.recipes()


@app.command()
def compare(
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to write.")],
    model: Model = "sam-tiny",
    images: Annotated[
        Path | None, typer.Option("--images", "-i", help="Folder of images; without it, the demonstration's.")
    ] = None,
    annotations: Annotations = None,
    boxes: Detections = None,
    grid: Grid = 4,
    eval_images: Annotated[
        Path | None,
        typer.Option(
            help="Images to compare on; default: those the calibration leaves over.", rich_help_panel="Images"
        ),
    ] = None,
    eval_annotations: Annotated[
        Path | None, typer.Option(help="Their COCO annotations, for AP.", rich_help_panel="Images")
    ] = None,
    eval_boxes: Annotated[
        Path | None, typer.Option(help="COCO-results JSON whose boxes are their prompts.", rich_help_panel="Images")
    ] = None,
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
) -> None:
    """Compare recipes at budgets, with uniform and with mixed bits: tables and a figure. Resumes where it was."""
    from mixqsam.cli import commands, parsing

    commands.compare(
        model,
        parsing.optional_data(images, annotations=annotations, detections=boxes, grid=grid),
        parsing.optional_data(eval_images, annotations=eval_annotations, detections=eval_boxes, grid=grid),
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
def analyze(
    images: Images,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file to write.")],
    model: Model = "sam-tiny",
    annotations: Annotations = None,
    boxes: Detections = None,
    grid: Grid = 4,
    count: Count = 32,
    prompts: Prompts = 4,
    observer: Observer = "omse",
    sensitivity_bits: Bits = "2,4,8",
    pairs: Pairs = True,
    cache: CacheFolder = None,
    device: Device = "cpu",
    processes: Processes = None,
) -> None:
    """Measure importance, synergy and sensitivity of every unit; the file serves many allocations."""
    from mixqsam.cli import commands, parsing

    commands.analyze(
        model,
        parsing.data(images, annotations=annotations, detections=boxes, grid=grid),
        output=output,
        options=parsing.analysis_options(
            count, prompts, observer=observer, bits=sensitivity_bits, pairs=pairs, prompts_per_image=1
        ),
        cache=cache,
        device=device,
        processes=processes,
    )


@app.command()
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
) -> None:
    """Choose bits under a budget from a stored analysis; needs no model, takes seconds."""
    from mixqsam.cli import commands, parsing

    commands.allocate(
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


@app.command()
def predict(
    image: Annotated[Path, typer.Argument(help="An image.")],
    model: Model = "sam-tiny",
    box: Annotated[list[str] | None, typer.Option(help="x1,y1,x2,y2 in pixels; may be repeated.")] = None,
    point: Annotated[
        list[str] | None, typer.Option(help="x,y or x,y,0 (background); all points are one prompt.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Mask to write (PNG).")] = Path("mask.png"),
    overlay: Annotated[Path | None, typer.Option(help="Picture of the mask on the image (PNG).")] = None,
    backend: Annotated[
        str | None, typer.Option(help="torch, onnx or openvino; default: what the model's files are for.")
    ] = None,
) -> None:
    """Segment one image with boxes or points."""
    from mixqsam.cli import commands

    commands.predict(
        image, model=model, boxes=box or [], points=point or [], output=output, overlay=overlay, backend=backend
    )


for _judge in (
    judging.detect,
    judging.evaluate,
    judging.evaluate_oriented,
    judging.evaluate_automatic,
    judging.evaluate_semantic,
    deploying.export,
    deploying.benchmark,
):
    app.command()(_judge)


def run() -> None:
    """Entry point of the command `mixqsam`."""
    app()
