"""The command `mixqsam`."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mixqsam import __version__
from mixqsam.cli.console import guarded
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


class Guarded(TyperGroup):
    """The group of commands; errors of ours end in one paragraph and an exit code, also Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; `MIXQSAM_DEBUG=1` lets tracebacks through."""
        code = guarded(lambda: super(Guarded, self).invoke(ctx), debug=bool(os.environ.get("MIXQSAM_DEBUG")))
        if code:
            raise typer.Exit(code)


app = typer.Typer(
    name="mixqsam",
    cls=Guarded,
    help=(
        "Quantize the Segment Anything Model with a bit-width of its own for every layer (Mix-QSAM).\n\n"
        "Start with [bold]mixqsam demo[/], then [bold]mixqsam quantize --images FOLDER --budget W4A4 -o out[/]."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mixqsam {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_show_version, is_eager=True)
    ] = False,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all cores.")] = 0,
) -> None:
    """What all commands share."""
    del version
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)


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
    from mixqsam.cli import commands

    commands.quantize(
        model,
        commands.data(images, annotations=annotations, detections=boxes, grid=grid),
        output=output,
        budget=budget,
        options=commands.all_options(
            commands.analysis_options(
                count,
                prompts,
                observer="omse",
                bits=sensitivity_bits,
                pairs=pairs,
                prompts_per_image=prompts_per_image,
            ),
            commands.allocation_options(
                output_distribution,
                utility,
                synergy=synergy,
                coupling=coupling,
                free=free,
                candidates=candidates,
                keep=keep,
                time_limit=time_limit,
            ),
            commands.quantization_options(recipe, iterations=iterations, batch=batch, seed=seed),
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
    from mixqsam.cli import commands

    commands.compare(
        model,
        commands.optional_data(images, annotations=annotations, detections=boxes, grid=grid),
        commands.optional_data(eval_images, annotations=eval_annotations, detections=eval_boxes, grid=grid),
        recipes=recipes,
        budgets=budget or ["W6A6", "W4A4"],
        modes=modes,
        limit=limit,
        options=commands.all_options(
            commands.analysis_options(
                count,
                prompts,
                observer="omse",
                bits=sensitivity_bits,
                pairs=True,
                prompts_per_image=prompts_per_image,
            ),
            commands.allocation_options(
                output_distribution,
                utility,
                synergy=synergy,
                coupling=coupling,
                free=free,
                candidates=candidates,
                keep=keep,
                time_limit=time_limit,
            ),
            commands.quantization_options("omse", iterations=iterations, batch=batch, seed=seed),
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
    from mixqsam.cli import commands

    commands.analyze(
        model,
        commands.data(images, annotations=annotations, detections=boxes, grid=grid),
        output=output,
        options=commands.analysis_options(
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
    from mixqsam.cli import commands

    commands.allocate(
        analysis,
        output=output,
        budget=budget,
        prompts_per_image=prompts_per_image,
        options=commands.allocation_options(
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
def detect(
    images: Images,
    annotations: Annotated[Path, typer.Option(help="COCO annotation file: which images, which categories.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="COCO-results JSON to write.")],
    detector: Annotated[str, typer.Option(help="Hub id or directory of a transformers detector (DETR, RT-DETR, …).")],
    score: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Least score; default: as published for the detector.")
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Boxes of each image, at most.")] = None,
    nms: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="IoU above which the weaker box of a class goes; 1: none.")
    ] = None,
    cache: CacheFolder = None,
    device: Device = "cpu",
) -> None:
    """Run a detector once over a data set; `evaluate --boxes` then prompts with its boxes."""
    from mixqsam.cli import commands

    commands.detect(
        detector,
        images=images,
        annotations=annotations,
        output=output,
        score=score,
        top=top,
        nms=nms,
        cache=cache,
        device=device,
    )


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(help="Quantized directories or float models.")],
    images: Images,
    annotations: Annotations = None,
    boxes: Detections = None,
    grid: Grid = 4,
    reference: Annotated[
        str | None, typer.Option("--float", help="The float model; default: the one the first was made from.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    best_of_three: Annotated[
        bool, typer.Option("--best-of-three", help="Of three masks of a prompt take the one the model thinks best.")
    ] = False,
    keep_embeddings: Annotated[
        bool, typer.Option("--keep-embeddings", help="Keep the float model's image embeddings for the next model.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    cache: CacheFolder = None,
    device: Device = "cpu",
    processes: Processes = None,
) -> None:
    """Compare with the float model: COCO mask AP with annotations, else fidelity of masks."""
    from mixqsam.cli import commands

    commands.evaluate(
        models,
        commands.data(images, annotations=annotations, detections=boxes, grid=grid),
        reference=reference,
        limit=limit,
        best_of_three=best_of_three,
        keep_embeddings=keep_embeddings,
        output=output,
        cache=cache,
        device=device,
        processes=processes,
    )


@app.command()
def evaluate_oriented(
    models: Annotated[list[str], typer.Argument(help="Quantized directories or float models.")],
    images: Images,
    labels: Annotated[Path, typer.Option("--labels", "-l", help="Folder of DOTA's label files (P0001.txt, …).")],
    boxes: Annotated[
        Path | None,
        typer.Option(help="Folder of a detector's Task2_<category>.txt; default: rectangles around the labels."),
    ] = None,
    tile: Annotated[int, typer.Option(min=16, help="Side of a tile in pixels.")] = 1024,
    overlap: Annotated[int, typer.Option(min=0, help="Pixels that neighbouring tiles share.")] = 200,
    merge: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Rotated IoU above which the weaker of two results goes.")
    ] = 0.1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    submission: Annotated[Path | None, typer.Option(help="Write the DOTA server's files into this folder.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    device: Device = "cpu",
) -> None:
    """Oriented detection on DOTA-v1.0: boxes → masks → rotated boxes → mAP."""
    from mixqsam.cli import commands

    commands.evaluate_oriented(
        models,
        commands.oriented_data(images, labels, boxes=boxes, tile=tile, overlap=overlap, merge=merge),
        limit=limit,
        submission=submission,
        output=output,
        device=device,
    )


@app.command()
def evaluate_automatic(
    models: Annotated[list[str], typer.Argument(help="Quantized directories or float models.")],
    images: Images,
    annotations: Annotations = None,
    reference: Annotated[
        str | None, typer.Option("--float", help="The float model; default: the one the first was made from.")
    ] = None,
    side: Annotated[int, typer.Option(min=1, max=64, help="Points per side of the grid.")] = 32,
    predicted_iou: Annotated[float, typer.Option(help="Least IoU that the model predicts for a mask.")] = 0.88,
    stability: Annotated[float, typer.Option(help="Least IoU of the masks cut at -1 and at +1.")] = 0.95,
    overlap: Annotated[float, typer.Option(help="Box IoU above which the less sure of two masks goes.")] = 0.7,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    device: Device = "cpu",
) -> None:
    """Segment everything: how many of the float model's masks are found, and of the annotated ones."""
    from mixqsam.cli import commands

    commands.evaluate_automatic(
        models,
        commands.data(images, annotations=annotations, detections=None, grid=1),
        reference=reference,
        options=commands.automatic_options(side, predicted_iou=predicted_iou, stability=stability, overlap=overlap),
        limit=limit,
        output=output,
        device=device,
    )


@app.command()
def evaluate_semantic(
    models: Annotated[list[str], typer.Argument(help="Quantized directories or float models.")],
    images: Images,
    labels: Annotated[Path, typer.Option("--labels", "-l", help="Folder of label maps: PNG, pixels are classes.")],
    prompts: Annotated[str, typer.Option(help="boxes around regions, or points inside them.")] = "boxes",
    background: Annotated[
        int | None, typer.Option(min=0, max=254, help="Class that fills what no mask covers; it gives no prompts.")
    ] = None,
    least: Annotated[int, typer.Option(min=1, help="Pixels of a region that prompts.")] = 64,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    device: Device = "cpu",
) -> None:
    """Semantic segmentation: regions of label maps prompt the model; mean IoU of the painted map."""
    from mixqsam.cli import commands

    commands.evaluate_semantic(
        models,
        commands.semantic_data(images, labels, prompts=prompts, background=background, least=least),
        limit=limit,
        output=output,
        device=device,
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
) -> None:
    """Segment one image with boxes or points."""
    from mixqsam.cli import commands

    commands.predict(image, model=model, boxes=box or [], points=point or [], output=output, overlay=overlay)


def run() -> None:
    """Entry point of the command `mixqsam`."""
    app()
