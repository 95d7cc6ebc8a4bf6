"""The commands that judge models. Their bodies load torch, so they import what they need when they run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mixqsam.cli.command import command, line
from mixqsam.cli.console import models_table
from mixqsam.cli.following import new_path
from mixqsam.cli.options import (
    Cache,
    Device,
    ImagesAlone,
    KeepEmbeddings,
    Limit,
    Models,
    OutputFile,
    Processes,
    Reference,
)
from mixqsam.cli.outcome import Outcome
from mixqsam.options.fields import Option
from mixqsam.options.flat import flat_values
from mixqsam.pipeline.data import SkipMissing
from mixqsam.pipeline.options import Data
from mixqsam.pipeline.tasks import DetectionOptions, OrientedData, SemanticData
from mixqsam.sam.automatic_options import Automatic

if TYPE_CHECKING:
    from mixqsam.evaluation.evaluate import EvaluationResult


@command()
def detect(
    *,
    images: Annotated[Path, Option("Folder of images (jpg, png, webp).", flags=("--images", "-i"))],
    annotations: Annotated[Path, Option("COCO annotation file: which images, which categories.")],
    output: Annotated[Path, Option("COCO-results JSON to write.", flags=("--output", "-o"), is_written=True)],
    detector: Annotated[str, Option("Hub id or directory of a transformers detector (DETR, RT-DETR, …).")],
    options: DetectionOptions,
    skip_missing: SkipMissing = False,
    cache: Cache = None,
    device: Device = "cpu",
) -> Outcome:
    """Run a detector once over a data set; `evaluate --boxes` then prompts with its boxes."""
    from mixqsam.cli.session import open_session
    from mixqsam.pipeline.detect import run_detection

    boxes = run_detection(
        detector,
        images=images,
        annotations=annotations,
        output=output,
        options=options,
        skip_missing=skip_missing,
        session=open_session(cache, device),
    )
    count = len({box["image_id"] for box in boxes})
    next_options = {
        "models": ["OUT"],
        "images": images,
        "annotations": annotations,
        "boxes": output,
        "skip_missing": skip_missing,
        "cache": cache,
        "device": device,
    }
    return Outcome(
        data={"detections": str(output), "boxes": len(boxes), "images": count},
        made={output: f"{len(boxes):,} boxes on {count:,} images"},
        next={line("evaluate", next_options): "prompt a model with them"},
    )


@command()
def evaluate(
    *,
    models: Models,
    images: Data,
    reference: Reference = None,
    limit: Limit = None,
    best_of_three: Annotated[
        bool,
        Option("Take the best of three masks per prompt, as the model rates them.", flags=("--best-of-three",)),
    ] = False,
    dynamic_multimask: Annotated[
        bool,
        Option(
            "For SAM 2 and SAM 3: replace a single mask of low stability by the best of three.",
            flags=("--dynamic-multimask/--no-dynamic-multimask",),
        ),
    ] = True,
    keep_embeddings: KeepEmbeddings = False,
    output: OutputFile = None,
    results: Annotated[
        Path | None,
        Option(
            "COCO-results JSON to write: the masks as run lengths, with scores. Needs --annotations.", is_written=True
        ),
    ] = None,
    cache: Cache = None,
    device: Device = "cpu",
    processes: Processes = None,
) -> Outcome | None:
    """Compare with the float model: COCO mask AP with annotations, else fidelity of masks."""
    from mixqsam.cli.session import open_session
    from mixqsam.pipeline.evaluate import check_single_masks, result_paths, run_evaluation, with_reference

    check_single_masks(models, dynamic_multimask=dynamic_multimask)
    sources = with_reference(models, reference)
    session = open_session(cache, device, processes=processes, is_group=True)
    scores = run_evaluation(
        sources,
        images,
        limit=limit,
        session=session,
        best_of_three=best_of_three,
        dynamic_multimask=dynamic_multimask,
        keep_embeddings=keep_embeddings,
        results=results,
    )
    if session.engine.rank:
        return None
    rows, quantized = _tabulate(scores, sources, models)
    basis = next(iter(scores.values())).basis
    outcome = _make_outcome(basis, rows, {name: result.to_json() for name, result in scores.items()}, output)
    files = {} if results is None else result_paths(results, list(sources))
    written = {path: f"COCO results of {name}" for name, path in files.items()}
    if not quantized:
        return replace(outcome, made={**outcome.made, **written})
    next_options = {"reference": reference, "limit": limit, "cache": cache, **flat_values(images)}
    next_options |= {"directories": quantized, "output": new_path("report.html")}
    following = {line("report", next_options): "see the masks that differ most"}
    return replace(outcome, made={**outcome.made, **written}, next=following)


def _tabulate(
    scores: Mapping[str, "EvaluationResult"], sources: Mapping[str, str], models: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Collect costs and quality of each model; also name those of the `models` that are quantized directories."""
    from mixqsam.cli.tables import quality
    from mixqsam.pipeline.evaluate import float_costs, stored_costs

    rows = {name: stored_costs(Path(sources[name])) | figures for name, figures in quality(scores).items()}
    quantized = [model for model in models if stored_costs(Path(model))]
    if "float" in rows and quantized:
        rows["float"] = float_costs(Path(quantized[0])) | rows["float"]
    return rows, quantized


@command()
def evaluate_oriented(
    *,
    models: Models,
    data: OrientedData,
    limit: Limit = None,
    submission: Annotated[Path | None, Option("Folder to write the DOTA server's files into.")] = None,
    output: OutputFile = None,
    device: Device = "cpu",
) -> Outcome:
    """Oriented detection on DOTA-v1.0: boxes → masks → rotated boxes → mAP."""
    from mixqsam.cli.session import open_session

    # Only this command needs the geometry library, which is an extra.
    from mixqsam.pipeline.oriented import run_oriented
    from mixqsam.prompts import describe_basis

    results = run_oriented(
        {model: model for model in models},
        data,
        session=open_session(device=device),
        limit=limit,
        submission=submission,
    )
    scores = {name: asdict(result) for name, result in results.items()}
    first, kind = next(iter(results.values())), "labelled boxes" if data.boxes is None else "detector's boxes"
    title = f"Oriented detection; quality on {describe_basis(first.images, first.prompts, kind)}"
    outcome = _make_outcome(title, scores, scores, output)
    files = {} if submission is None else {submission: "Task1_<category>.txt of each model, for the DOTA server"}
    return replace(outcome, made={**outcome.made, **files})


@command()
def evaluate_automatic(
    *,
    models: Models,
    images: ImagesAlone,
    options: Automatic,
    reference: Reference = None,
    limit: Limit = None,
    output: OutputFile = None,
    device: Device = "cpu",
) -> Outcome:
    """Segment everything: the shares of the float model's masks and of the annotated masks that are found."""
    from mixqsam.cli.session import open_session
    from mixqsam.pipeline.automatic import run_automatic
    from mixqsam.pipeline.evaluate import with_reference

    session = open_session(device=device)
    results = run_automatic(with_reference(models, reference), images, options=options, session=session, limit=limit)
    count = next(iter(results.values())).images
    title = f"Segment everything, {count:,} image{'' if count == 1 else 's'}"
    scores = {name: asdict(result) for name, result in results.items()}
    return _make_outcome(title, scores, scores, output)


@command()
def evaluate_semantic(
    *,
    models: Models,
    data: SemanticData,
    limit: Limit = None,
    output: OutputFile = None,
    device: Device = "cpu",
) -> Outcome:
    """Semantic segmentation: regions of label maps prompt the model; mean IoU of the painted map."""
    from mixqsam.cli.session import open_session
    from mixqsam.pipeline.semantic import run_semantic
    from mixqsam.prompts import describe_basis

    results = run_semantic({model: model for model in models}, data, session=open_session(device=device), limit=limit)
    scores = {name: asdict(result) for name, result in results.items()}
    first, kind = next(iter(results.values())), f"{data.prompts} of label maps"
    title = f"Semantic segmentation; quality on {describe_basis(first.images, first.prompts, kind)}"
    return _make_outcome(title, scores, scores, output)


def _make_outcome(
    title: str, rows: Mapping[str, Mapping[str, Any]], data: Mapping[str, Mapping[str, Any]], output: Path | None
) -> Outcome:
    """Make the outcome of an evaluation; write its figures if there is an `output`."""
    from mixqsam.files import write_json

    if output is not None:
        write_json(output, data)
    made = {} if output is None else {output: "all figures"}
    return Outcome({"models": data}, [models_table(title, rows)], made=made)
