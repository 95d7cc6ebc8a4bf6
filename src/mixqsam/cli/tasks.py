"""What the commands that judge models do once their words are parsed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mixqsam.boxes import Wishes
from mixqsam.cli.console import models_table
from mixqsam.cli.outcome import Outcome
from mixqsam.cli.parsing import session
from mixqsam.evaluation.run import Report
from mixqsam.files import write_json
from mixqsam.pipeline.automatic import run_automatic
from mixqsam.pipeline.detect import run_detection
from mixqsam.pipeline.evaluate import float_costs, float_source, run_evaluation, stored_costs
from mixqsam.pipeline.options import (
    Data,
    OrientedData,
    SemanticData,
)
from mixqsam.pipeline.semantic import run_semantic
from mixqsam.sam.automatic import Automatic


def detect(
    detector: str,
    *,
    images: Path,
    annotations: Path,
    output: Path,
    score: float | None,
    top: int | None,
    nms: float | None,
    skip_missing: bool,
    cache: Path | None,
    device: str,
) -> Outcome:
    """`mixqsam detect`."""
    found = run_detection(
        detector,
        images=images,
        annotations=annotations,
        output=output,
        wishes=Wishes(score, top, nms),
        skip_missing=skip_missing,
        session=session(cache, device),
    )
    count = len({one["image_id"] for one in found})
    following = f"mixqsam evaluate OUT --images {images} --annotations {annotations} --boxes {output}"
    return Outcome(
        data={"detections": str(output), "boxes": len(found), "images": count},
        made={output: f"{len(found):,} boxes on {count:,} images"},
        next={following: "prompt a model with them"},
    )


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
) -> Outcome | None:
    """`mixqsam evaluate`."""
    chosen = _with_reference(models, reference)
    own = session(cache, device, processes=processes, group=True)
    reports = run_evaluation(
        chosen,
        source,
        limit=limit,
        session=own,
        best_of_three=best_of_three,
        keep_embeddings=keep_embeddings,
    )
    if own.engine.rank:
        return None
    rows = {name: stored_costs(Path(chosen[name])) | quality(report) for name, report in reports.items()}
    known = next((float_costs(Path(model)) for model in models if stored_costs(Path(model))), {})
    rows["float"] = known | rows["float"]
    some = next(iter(reports.values()))
    told = _told(
        some.basis,
        rows,
        {name: report.to_json() for name, report in reports.items()},
        output,
    )
    quantized = [model for model in models if stored_costs(Path(model))]
    following = f"mixqsam report {' '.join(quantized)} --images {source.images} -o report.html"
    return replace(told, next={following: "see the masks that differ most"} if quantized else {})


def evaluate_oriented(
    models: Sequence[str],
    source: OrientedData,
    *,
    limit: int | None,
    submission: Path | None,
    output: Path | None,
    device: str,
) -> Outcome:
    """`mixqsam evaluate-oriented`."""
    # Only this command needs the geometry library, which is an extra.
    from mixqsam.pipeline.oriented import run_oriented

    found = run_oriented(
        {model: model for model in models},
        source,
        session=session(None, device),
        limit=limit,
        submission=submission,
    )
    scores = {name: asdict(one) for name, one in found.items()}
    told = _told("Oriented detection", scores, scores, output)
    files = {} if submission is None else {submission: "Task1_<category>.txt of each model, for the DOTA server"}
    return replace(told, made={**told.made, **files})


def evaluate_automatic(
    models: Sequence[str],
    source: Data,
    *,
    reference: str | None,
    options: Automatic,
    limit: int | None,
    output: Path | None,
    device: str,
) -> Outcome:
    """`mixqsam evaluate-automatic`."""
    chosen = _with_reference(models, reference)
    found = run_automatic(chosen, source, options=options, session=session(None, device), limit=limit)
    title = f"Segment everything, {next(iter(found.values())).images} images"
    scores = {name: asdict(one) for name, one in found.items()}
    return _told(title, scores, scores, output)


def evaluate_semantic(
    models: Sequence[str], source: SemanticData, *, limit: int | None, output: Path | None, device: str
) -> Outcome:
    """`mixqsam evaluate-semantic`."""
    found = run_semantic({model: model for model in models}, source, session=session(None, device), limit=limit)
    scores = {name: asdict(one) for name, one in found.items()}
    return _told("Semantic segmentation", scores, scores, output)


def _told(
    title: str, rows: Mapping[str, Mapping[str, Any]], data: Mapping[str, Mapping[str, Any]], output: Path | None
) -> Outcome:
    if output is not None:
        write_json(output, data)
    return Outcome(
        {"models": data}, [models_table(title, rows)], made={} if output is None else {output: "all figures"}
    )


def _with_reference(models: Sequence[str], reference: str | None) -> dict[str, str]:
    """The float model first: the one that is named, or the one that the first model was made from."""
    chosen = {"float": reference or (float_source(Path(models[0])) if Path(models[0]).is_dir() else models[0])}
    return chosen | {model: model for model in models if model != chosen["float"]}


def quality(report: Report) -> dict[str, Any]:
    """A report's figures, by the keys that tables know."""
    coco = report.coco
    scores: dict[str, Any] = {} if coco is None else asdict(coco)
    scores["truth_iou"] = report.truth_iou
    if report.fidelity is not None:
        scores |= {"mean_iou": report.fidelity.mean_iou, "kl": report.fidelity.kl["bernoulli"]}
    return scores
