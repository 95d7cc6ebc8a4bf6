"""Oriented detection with SAM: horizontal boxes → masks on tiles → rotated boxes → merged → scored.

See docs/method.md, “Oriented detection”.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mixqsam.data.dota import DotaImage, HorizontalBox, Tile, find_tiles, make_tiles, read_dota, read_task2
from mixqsam.data.images import note_skipped, open_image
from mixqsam.directories import new_directory
from mixqsam.errors import ImageError
from mixqsam.evaluation.oriented import OrientedResult, mask_rectangle, score_oriented, suppress_rotated
from mixqsam.evaluation.oriented_scores import OrientedScores
from mixqsam.files import write_bytes
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import load
from mixqsam.pipeline.tasks import OrientedData
from mixqsam.prediction import Predictor
from mixqsam.prompts import Prompts
from mixqsam.sam.predictor import SamPredictor

_MARKER = "Task1.txt"


def run_oriented(
    models: Mapping[str, str | Path],
    data: OrientedData,
    *,
    session: Session,
    limit: int | None = None,
    submission: Path | None = None,
) -> dict[str, OrientedScores]:
    """Evaluate models on oriented detection, side by side.

    Args:
        models: name → float model or quantized directory.
        data: images, labels, boxes, tiles.
        session: progress, device.
        limit: maximum number of images.
        submission: write the DOTA server's files into `submission/<name>/Task1_<category>.txt`.

    Raises:
        AnnotationError: the data set is malformed; the message names file and line.
        ImageError: no image can be read; those that cannot are named and skipped, and their objects count as missed.
        OutputError: the submission's folder exists.
    """
    images = read_dota(data.images, data.labels)
    boxes = (
        {image.name: image.boxes() for image in images} if data.boxes is None else read_task2(data.boxes, images=images)
    )
    images = images[:limit]
    predictors = {name: SamPredictor(load(source, device=session.device)) for name, source in models.items()}
    results: dict[str, list[OrientedResult]] = {name: [] for name in predictors}
    broken: list[str] = []
    prompts = 0
    for image in session.progress.track(images, label="Oriented boxes", total=len(images)):
        try:
            picture = open_image(image.path)
        except ImageError as error:
            broken.append(str(error))
            continue
        prompts += len(boxes[image.name])
        for name, predictor in predictors.items():
            image_results = predict_rotated_boxes(predictor, picture, boxes[image.name], image=image, data=data)
            results[name] += suppress_rotated(image_results, limit=data.merge)
    note_skipped(broken, total=len(images), progress=session.progress)
    if submission is not None:
        for name, model_results in results.items():
            write_submission(submission / name, model_results)
    truth = {image.name: image.objects for image in images}
    return {
        name: replace(score_oriented(truth, model_results), images=len(images) - len(broken), prompts=prompts)
        for name, model_results in results.items()
    }


def predict_rotated_boxes(
    predictor: Predictor,
    picture: Image.Image,
    boxes: Sequence[HorizontalBox],
    *,
    image: DotaImage,
    data: OrientedData,
) -> list[OrientedResult]:
    """Predict the rotated boxes of one image, tile by tile; a box in several tiles gives several results.

    The score is the detector's, or the predicted IoU if the boxes are ground truth.
    """
    tiles = make_tiles(picture.width, picture.height, size=data.tile, overlap=data.overlap)
    by_tile: dict[int, list[HorizontalBox]] = {}
    for box in (box for box in boxes if _area_inside(box, picture) > 0):
        for index in find_tiles(box.box, tiles):
            by_tile.setdefault(index, []).append(box)
    results: list[OrientedResult] = []
    for index, tile_boxes in sorted(by_tile.items()):
        results += _predict_tile(predictor, picture, tiles[index], tile_boxes, name=image.name)
    return results


def _area_inside(box: HorizontalBox, picture: Image.Image) -> float:
    clipped = box.box.clip(0, [picture.width, picture.height] * 2)
    return float((clipped[2:] - clipped[:2]).clip(min=0).prod())


def _predict_tile(
    predictor: Predictor, picture: Image.Image, tile: Tile, boxes: Sequence[HorizontalBox], *, name: str
) -> list[OrientedResult]:
    corner = np.array([tile.x, tile.y], dtype=np.float64)
    prompts = np.stack([box.box for box in boxes]) - np.tile(corner, 2)
    prompts = prompts.clip(0, [tile.width, tile.height] * 2)
    x1, y1, x2, y2 = (int(value) for value in tile.box)
    predictor.set_image(picture.crop((x1, y1, x2, y2)))
    prediction = predictor.segment(Prompts(boxes=prompts))
    results = []
    for box, mask, score in zip(boxes, prediction.masks[:, 0], prediction.scores[:, 0], strict=True):
        rectangle = mask_rectangle(mask)
        if rectangle is not None:
            value = float(score) if box.score is None else box.score
            results.append(OrientedResult(name, rectangle + corner, box.category, value))
    return results


def write_submission(folder: Path, results: Sequence[OrientedResult]) -> None:
    """Write the DOTA server's files: `Task1_<category>.txt`, lines `image score x1 y1 … x4 y4`, strongest first.

    Raises:
        OutputError: the folder exists, or cannot be written.
    """
    with new_directory(folder, overwrite=False, marker=_MARKER) as fresh:
        for category in sorted({result.category for result in results}):
            ordered = sorted((r for r in results if r.category == category), key=lambda result: -result.score)
            lines = [
                f"{result.image} {result.score:.6f} {' '.join(f'{value:.2f}' for value in result.corners.ravel())}"
                for result in ordered
            ]
            write_bytes(fresh / f"Task1_{category}.txt", ("\n".join(lines) + "\n").encode())
