"""Run a detector once over a data set; evaluation then reads its boxes from the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixqsam.boxes import Detections, Selection, SelectionOverrides, select
from mixqsam.data.coco import annotated_samples, read_category_names
from mixqsam.data.images import note_skipped
from mixqsam.data.records import read_file_ids
from mixqsam.data.samples import Sample
from mixqsam.detection.detector import Detector, load_detector, match_categories
from mixqsam.errors import AnnotationError, ImageError
from mixqsam.files import digest, write_json
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.tasks import DetectionOptions

# Increase it when cached detections change their meaning, so that old ones are not used.
_VERSION = 1


def run_detection(
    source: str | Path,
    *,
    images: Path,
    annotations: Path,
    output: Path,
    session: Session,
    options: DetectionOptions,
    skip_missing: bool = False,
) -> list[dict[str, Any]]:
    """Write a COCO-results file of a detector's boxes on all images of an annotation file.

    The cache stores each image's boxes, so a stopped run resumes. Unreadable images are named and skipped.

    Args:
        source: hub id or directory of a transformers detector.
        images: the folder that the annotation file's names are relative to.
        annotations: a COCO file; its images, and its categories by name, are used.
        output: the JSON file.
        session: cache, progress, device.
        options: selection of boxes; by default that of the published evaluations with this detector.
        skip_missing: skip images that the folder does not hold.

    Returns:
        The results, as written.

    Raises:
        ModelError: the detector cannot be loaded.
        AnnotationError: detector and annotations have no category in common, or no box is found.
    """
    samples = annotated_samples(annotations, images=images, skip_missing=skip_missing, progress=session.progress)
    names = read_category_names(annotations)
    detector = load_detector(source, device=session.device)
    categories = match_categories(detector.names, names, source=str(source))
    selection = SelectionOverrides(options.score, options.top, options.nms).apply(detector.selection)
    results: list[dict[str, Any]] = []
    broken: list[str] = []
    for sample in session.progress.track(samples, label="Detecting", total=len(samples)):
        try:
            detections = _detect(detector, sample, selection, session)
        except ImageError as error:
            broken.append(str(error))
            continue
        detections = detections.pick([int(label) in categories for label in detections.labels])
        detections = select(detections, selection, width=sample.width, height=sample.height)
        results += _make_records(sample, detections, categories)
    note_skipped(broken, total=len(samples), progress=session.progress)
    if not results:
        raise AnnotationError(
            f"{source} finds no box with a score of at least {selection.score:g} on any of {len(samples)} images; "
            "lower the score, or choose another detector."
        )
    results = read_file_ids(annotations).restore(results)
    write_json(output, results)
    return results


def _detect(detector: Detector, sample: Sample, selection: Selection, session: Session) -> Detections:
    key = digest(_VERSION, detector.fingerprint, sample.digest(), selection.score)
    stored: dict[str, Any] | None = session.cache.get("detection", key)
    if stored is None:
        detections = detector.detect(sample.open(), score=selection.score)
        stored = {
            "boxes": detections.boxes.tolist(),
            "scores": detections.scores.tolist(),
            "labels": detections.labels.tolist(),
        }
        session.cache.put("detection", key, stored)
    return Detections.of(stored["boxes"], stored["scores"], stored["labels"])


def _make_records(sample: Sample, detections: Detections, categories: dict[int, int]) -> Sequence[dict[str, Any]]:
    records = []
    for (x1, y1, x2, y2), score, label in zip(
        detections.boxes.tolist(), detections.scores, detections.labels, strict=True
    ):
        box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
        if box[2] > 0 and box[3] > 0:
            category = categories[int(label)]
            records.append(
                {"image_id": sample.image_id, "category_id": category, "bbox": box, "score": round(float(score), 6)}
            )
    return records
