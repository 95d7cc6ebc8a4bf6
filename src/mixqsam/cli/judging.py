"""The commands that judge models: parsing; no logic."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixqsam.cli.options import (
    Annotations,
    CacheFolder,
    Detections,
    Device,
    Grid,
    Images,
    Limit,
    Processes,
    Reference,
    SkipMissing,
)

if TYPE_CHECKING:
    from mixqsam.cli.outcome import Outcome


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
    skip_missing: SkipMissing = False,
    cache: CacheFolder = None,
    device: Device = "cpu",
) -> "Outcome | None":
    """Run a detector once over a data set; `evaluate --boxes` then prompts with its boxes."""
    from mixqsam.cli import tasks

    return tasks.detect(
        detector,
        images=images,
        annotations=annotations,
        output=output,
        score=score,
        top=top,
        nms=nms,
        skip_missing=skip_missing,
        cache=cache,
        device=device,
    )


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Quantized directories or float models.")],
    images: Images,
    annotations: Annotations = None,
    boxes: Detections = None,
    grid: Grid = 4,
    skip_missing: SkipMissing = False,
    reference: Reference = None,
    limit: Limit = None,
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
) -> "Outcome | None":
    """Compare with the float model: COCO mask AP with annotations, else fidelity of masks."""
    from mixqsam.cli import parsing, tasks

    return tasks.evaluate(
        models,
        parsing.data(images, annotations=annotations, detections=boxes, grid=grid, skip_missing=skip_missing),
        reference=reference,
        limit=limit,
        best_of_three=best_of_three,
        keep_embeddings=keep_embeddings,
        output=output,
        cache=cache,
        device=device,
        processes=processes,
    )


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
    limit: Limit = None,
    submission: Annotated[Path | None, typer.Option(help="Write the DOTA server's files into this folder.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    device: Device = "cpu",
) -> "Outcome | None":
    """Oriented detection on DOTA-v1.0: boxes → masks → rotated boxes → mAP."""
    from mixqsam.cli import parsing, tasks

    return tasks.evaluate_oriented(
        models,
        parsing.oriented_data(images, labels, boxes=boxes, tile=tile, overlap=overlap, merge=merge),
        limit=limit,
        submission=submission,
        output=output,
        device=device,
    )


def evaluate_automatic(
    models: Annotated[list[str], typer.Argument(help="Quantized directories or float models.")],
    images: Images,
    annotations: Annotations = None,
    skip_missing: SkipMissing = False,
    reference: Reference = None,
    side: Annotated[int, typer.Option(min=1, max=64, help="Points per side of the grid.")] = 32,
    predicted_iou: Annotated[float, typer.Option(help="Least IoU that the model predicts for a mask.")] = 0.88,
    stability: Annotated[float, typer.Option(help="Least IoU of the masks cut at -1 and at +1.")] = 0.95,
    overlap: Annotated[float, typer.Option(help="Box IoU above which the less sure of two masks goes.")] = 0.7,
    limit: Limit = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    device: Device = "cpu",
) -> "Outcome | None":
    """Segment everything: how many of the float model's masks are found, and of the annotated ones."""
    from mixqsam.cli import parsing, tasks

    return tasks.evaluate_automatic(
        models,
        parsing.data(images, annotations=annotations, detections=None, grid=1, skip_missing=skip_missing),
        reference=reference,
        options=parsing.automatic_options(side, predicted_iou=predicted_iou, stability=stability, overlap=overlap),
        limit=limit,
        output=output,
        device=device,
    )


def evaluate_semantic(
    models: Annotated[list[str], typer.Argument(help="Quantized directories or float models.")],
    images: Images,
    labels: Annotated[Path, typer.Option("--labels", "-l", help="Folder of label maps: PNG, pixels are classes.")],
    prompts: Annotated[str, typer.Option(help="boxes around regions, or points inside them.")] = "boxes",
    background: Annotated[
        int | None, typer.Option(min=0, max=254, help="Class that fills what no mask covers; it gives no prompts.")
    ] = None,
    least: Annotated[int, typer.Option(min=1, help="Pixels of a region that prompts.")] = 64,
    limit: Limit = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    device: Device = "cpu",
) -> "Outcome | None":
    """Semantic segmentation: regions of label maps prompt the model; mean IoU of the painted map."""
    from mixqsam.cli import parsing, tasks

    return tasks.evaluate_semantic(
        models,
        parsing.semantic_data(images, labels, prompts=prompts, background=background, least=least),
        limit=limit,
        output=output,
        device=device,
    )
