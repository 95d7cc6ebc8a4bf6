"""Samples from COCO files: images with boxes of the annotations or of a detector as prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixqsam.data.records import CocoFile, CocoImage, read_annotations, read_detections
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError, ImageError, shortened
from mixqsam.progress import Progress, Silent
from mixqsam.prompts import Array, Prompts


def read_category_names(annotations: Path) -> dict[int, str]:
    """Read the names of the categories: id → name.

    Raises:
        AnnotationError: the file has no named categories.
    """
    names = {category.id: category.name for category in read_annotations(annotations).categories if category.name}
    if not names:
        raise AnnotationError(f"{annotations} names no categories, so a detector's classes cannot be matched.")
    return names


@dataclass(frozen=True)
class BoxPrompt:
    """A box [x, y, width, height] with its image, category, score and annotation."""

    image_id: int
    box: Sequence[float]
    category: int
    score: float | None = None
    annotation_id: int | None = None


def annotated_samples(
    annotations: Path,
    *,
    images: Path,
    detections: Path | None = None,
    skip_missing: bool = False,
    progress: Progress | None = None,
) -> list[Sample]:
    """Read the images of an annotation file, with the boxes of the ground truth or of a detector as prompts.

    Crowd regions are not prompts. Boxes without area inside their image are skipped and counted. The result includes
    images without prompts.

    Args:
        annotations: the COCO file.
        images: folder of the images; file names are relative to it.
        detections: a COCO-results file whose boxes replace those of the ground truth.
        skip_missing: skip images that the folder does not hold, and count them.
        progress: receives notes about skipped images and boxes.

    Raises:
        AnnotationError: a file is malformed, or boxes and images do not belong together.
        ImageError: an image file is missing; with `skip_missing`, all are missing.
    """
    content = read_annotations(annotations)
    prompts = _annotated_boxes(content) if detections is None else _detected_boxes(detections, content, annotations)
    paths = find_images(content.images, folder=images, source=annotations, skip_missing=skip_missing, progress=progress)
    return make_samples(
        [image for image in content.images if image.id in paths],
        prompts,
        paths=paths,
        source=detections or annotations,
        progress=progress or Silent(),
    )


def _detected_boxes(path: Path, content: CocoFile, annotations: Path) -> list[BoxPrompt]:
    images, categories = {image.id for image in content.images}, {category.id for category in content.categories}
    detections = read_detections(path)
    for detection in detections:
        owner, category = shortened(detection.image_id, most=60), shortened(detection.category_id, most=60)
        if detection.image_id not in images:
            raise AnnotationError(f"{path}: a box belongs to image {owner}, which {annotations} does not hold.")
        if categories and detection.category_id not in categories:
            raise AnnotationError(
                f"{path}: a box of image {owner} has category {category}, which {annotations} "
                "does not have; its class numbers are probably those of another data set."
            )
    return [BoxPrompt(d.image_id, d.bbox, d.category_id, score=d.score) for d in detections]


def _annotated_boxes(content: CocoFile) -> list[BoxPrompt]:
    return [
        BoxPrompt(a.image_id, a.bbox, a.category_id, annotation_id=a.id) for a in content.annotations if not a.iscrowd
    ]


def find_images(
    images: Sequence[CocoImage], *, folder: Path, source: Path, skip_missing: bool, progress: Progress | None
) -> dict[int, Path]:
    """Find the files of image records: id → path.

    Raises:
        AnnotationError: a file name is not valid, or leaves the folder.
        ImageError: a file is missing; with `skip_missing`, all are missing.
    """
    paths: dict[int, Path] = {}
    missing: list[Path] = []
    for image in images:
        path = _resolve(folder, image.file_name, source=source)
        if path is None:
            missing.append(folder / image.file_name)
        else:
            paths[image.id] = path
    if missing and (not skip_missing or not paths):
        few = shortened(missing[0])
        advice = "" if skip_missing else " --skip-missing goes on without such images."
        raise ImageError(
            f"{few} is missing: {source} names it, and {folder} does not hold it "
            f"({len(missing)} of {len(images)} images are missing).{advice}"
        )
    if missing and progress is not None:
        progress.note(
            f"Left out {len(missing)} of {len(images)} images of {source} that {folder} does not hold; "
            f"the first is {shortened(missing[0].name)}."
        )
    return paths


def _resolve(folder: Path, name: str, *, source: Path) -> Path | None:
    """Resolve a file of a folder; None if it is missing."""
    try:
        path = (folder / name).resolve()
        exists = path.is_file()
    except (OSError, ValueError) as error:
        reason = shortened(getattr(error, "strerror", None) or error)
        raise AnnotationError(f"{source}: file name {name!r:.100} cannot be one: {reason}.") from error
    if not path.is_relative_to(folder.resolve()):
        raise AnnotationError(f"{source}: file name {shortened(repr(name))} leaves the image folder {folder}.")
    return path if exists else None


def make_samples(
    images: Sequence[CocoImage],
    prompts: Sequence[BoxPrompt],
    *,
    paths: Mapping[int, Path],
    source: Path,
    progress: Progress,
) -> list[Sample]:
    """Make samples of images and their boxes, cut to the image, in the order of their ids.

    Boxes without area inside the image are skipped; `progress` receives their number and the first of them.
    """
    by_image: dict[int, list[BoxPrompt]] = {image.id: [] for image in images}
    for prompt in prompts:
        if prompt.image_id in by_image:
            by_image[prompt.image_id].append(prompt)
    samples, skipped = [], []
    for image in sorted(images, key=lambda image: image.id):
        valid, empty = _split_by_area(by_image[image.id], image)
        samples.append(_make_sample(image, valid, path=paths[image.id]))
        skipped += [(image, prompt) for prompt in empty]
    if skipped:
        image, first = skipped[0]
        named = "" if first.annotation_id is None else f"annotation {shortened(first.annotation_id, most=40)}, "
        missed = "" if first.annotation_id is None else " Their objects count as missed where masks are scored."
        progress.note(
            f"Skipped {len(skipped)} of {sum(map(len, by_image.values()))} boxes of {source} that have no area inside "
            f"their image; the first is {named}image {shortened(image.id, most=40)} ({shortened(image.file_name)}): "
            f"[x, y, width, height] = {[round(value, 2) for value in first.box]} in "
            f"{image.width}×{image.height} pixels.{missed}"
        )
    return samples


def _split_by_area(prompts: Sequence[BoxPrompt], image: CocoImage) -> tuple[list[BoxPrompt], list[BoxPrompt]]:
    """Split prompts into those with area inside the image, and the others."""
    sides = _corners(prompts, image)
    has_area = (sides[:, 2] > sides[:, 0]) & (sides[:, 3] > sides[:, 1])
    valid = [prompt for prompt, is_valid in zip(prompts, has_area, strict=True) if is_valid]
    return valid, [prompt for prompt, is_valid in zip(prompts, has_area, strict=True) if not is_valid]


def _corners(prompts: Sequence[BoxPrompt], image: CocoImage) -> Array:
    """Corners [P, 4] as x1, y1, x2, y2, cut to the image."""
    corners: Array = np.array([prompt.box for prompt in prompts], dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners.clip(0, np.tile([image.width, image.height], 2))


def _make_sample(image: CocoImage, prompts: Sequence[BoxPrompt], *, path: Path) -> Sample:
    scores = tuple(prompt.score for prompt in prompts if prompt.score is not None)
    return Sample(
        path=path,
        width=image.width,
        height=image.height,
        prompts=Prompts(boxes=_corners(prompts, image)),
        image_id=image.id,
        categories=tuple(prompt.category for prompt in prompts),
        scores=scores or None,
        annotation_ids=tuple(prompt.annotation_id for prompt in prompts if prompt.annotation_id is not None),
    )
