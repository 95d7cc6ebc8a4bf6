"""Semantic segmentation with SAM: each region of a label map prompts the model, its mask takes the region's class."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mixqsam.data.images import note_skipped, open_image
from mixqsam.data.labelmaps import UNLABELLED, find_regions, read_labelled
from mixqsam.errors import AnnotationError, ImageError
from mixqsam.evaluation.semantic import Confusion, SemanticScores, paint
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import load
from mixqsam.pipeline.tasks import SemanticData
from mixqsam.sam.predictor import SamPredictor


def run_semantic(
    models: Mapping[str, str | Path], data: SemanticData, *, session: Session, limit: int | None = None
) -> dict[str, SemanticScores]:
    """Evaluate models on semantic segmentation, side by side.

    Masks are painted in the order of their predicted IoU, over the background class if there is one; pixels that no
    mask covers are wrong where there is none.

    Args:
        models: name → float model or quantized directory.
        data: images, label maps, prompts.
        session: progress, device.
        limit: maximum number of images.

    Raises:
        AnnotationError: the data set is malformed, or holds no region to prompt with.
        ImageError: no image can be read; those that cannot are named and skipped.
    """
    images = read_labelled(data.images, data.labels)[:limit]
    predictors = {name: SamPredictor(load(source, device=session.device)) for name, source in models.items()}
    counts = {name: Confusion() for name in predictors}
    empty, prompts = 0, 0
    broken: list[str] = []
    for image in session.progress.track(images, label="Label maps", total=len(images)):
        try:
            picture = open_image(image.path)
        except ImageError as error:
            broken.append(str(error))
            continue
        truth = image.read(width=picture.width, height=picture.height)
        background = () if data.background is None else (data.background,)
        regions = find_regions(truth, background=background, least=data.least)
        ground = np.full_like(truth, UNLABELLED if data.background is None else data.background)
        empty += not len(regions.classes)
        prompts += len(regions.classes)
        for name, predictor in predictors.items():
            painted = ground
            if len(regions.classes):
                predictor.set_image(picture)
                prediction = predictor.segment(regions.prompts(data.prompts))
                painted = paint(prediction.masks[:, 0], prediction.scores[:, 0], regions.classes, ground=ground)
            counts[name].add(truth, painted)
    note_skipped(broken, total=len(images), progress=session.progress)
    if empty == len(images) - len(broken):
        raise AnnotationError(
            f"{data.labels}: no label map has a region of at least {data.least} pixels to prompt with."
        )
    return {name: replace(confusion.scores(), prompts=prompts) for name, confusion in counts.items()}
