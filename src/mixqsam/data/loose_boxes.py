"""Boxes without annotations; a list in the file or the file names identify their images."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mixqsam.data.coco import BoxPrompt, find_images, make_samples
from mixqsam.data.images import image_size, list_images, note_skipped
from mixqsam.data.records import CocoImage, NamedBox, read_boxes, whole_number
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError, ImageError, shortened
from mixqsam.progress import Progress


def boxed_samples(boxes: Path, *, images: Path, skip_missing: bool = False, progress: Progress) -> list[Sample]:
    """Make samples of a folder's images with the boxes of a file as prompts; images without boxes are skipped.

    A list `images` in the file identifies the image of each box. Without it, a box has a `file_name`, or an `image_id`
    that is the name of exactly one file: `000000000139`, `139` or `"000000000139.jpg"` for `000000000139.jpg`.

    Args:
        boxes: a COCO-results file, or one with `images` and `annotations`.
        images: folder of the images.
        skip_missing: skip boxes of images that the folder does not hold, and count them.
        progress: receives notes about skipped boxes.

    Raises:
        AnnotationError: the file is malformed, or a box's image is not one file of the folder.
        ImageError: the folder does not hold a readable image.
    """
    named_boxes, listed = read_boxes(boxes)
    if listed is not None:
        prompts = _prompts_by_id(named_boxes, listed, source=boxes)
        prompted_ids = {prompt.image_id for prompt in prompts}
        used = [image for image in listed if image.id in prompted_ids]
        paths = find_images(used, folder=images, source=boxes, skip_missing=skip_missing, progress=progress)
        records = [image for image in used if image.id in paths]
    else:
        prompts, paths = _prompts_by_name(
            named_boxes, images, source=boxes, skip_missing=skip_missing, progress=progress
        )
        records = _measure_images(paths, folder=images, progress=progress)
    return make_samples(records, prompts, paths=paths, source=boxes, progress=progress)


def _prompts_by_id(boxes: Sequence[NamedBox], images: Sequence[CocoImage], *, source: Path) -> list[BoxPrompt]:
    """Make prompts by the ids in the file's list of images."""
    known = {image.id for image in images}
    prompts = []
    for box in boxes:
        try:
            number = whole_number(box.image_id)
        except ValueError as error:
            raise AnnotationError(f"{source}: the image_id of a box: {error}.") from error
        if number not in known:
            raise AnnotationError(
                f"{source}: a box belongs to image {shortened(number, most=60)}, which is not among its images."
            )
        prompts.append(BoxPrompt(number, box.bbox, box.category_id, score=box.score))
    return _drop_partial_scores(prompts)


def _prompts_by_name(
    boxes: Sequence[NamedBox], folder: Path, *, source: Path, skip_missing: bool, progress: Progress
) -> tuple[list[BoxPrompt], dict[int, Path]]:
    """Make prompts by file names; images are numbered in the order of their paths."""
    files = list_images(folder)
    names = _index_names(files, folder)
    numbers = {path: number for number, path in enumerate(files, start=1)}
    prompts, missing = [], []
    for box in boxes:
        path = _find_file(box, names, source=source, folder=folder)
        if path is None:
            missing.append(_key(box))
        else:
            prompts.append(BoxPrompt(numbers[path], box.bbox, box.category_id, score=box.score))
    if missing and (not skip_missing or not prompts):
        raise AnnotationError(
            f"{source}: image {shortened(missing[0], most=60)} of a box is not the name of a file in {folder}. "
            "Give --annotations with the list of images, boxes with a file_name, or a file with images and "
            "annotations; --skip-missing goes on without such boxes."
        )
    if missing:
        progress.note(
            f"Left out {len(missing)} of {len(boxes)} boxes of {source} whose images {folder} does not hold; "
            f"the first is of image {shortened(missing[0], most=60)}."
        )
    used = {prompt.image_id for prompt in prompts}
    return _drop_partial_scores(prompts), {number: path for path, number in numbers.items() if number in used}


def _index_names(files: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    """Index files by every possible name: path in the folder, name, stem, and the number in the stem."""
    names: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        stem = path.stem
        spellings = {str(path.relative_to(folder).as_posix()), path.name, stem}
        if stem.isascii() and stem.isdigit():
            spellings.add(f"#{int(stem)}")
        for name in spellings:
            names[name].append(path)
    return names


def _key(box: NamedBox) -> str:
    return str(box.image_id if box.file_name is None else box.file_name)


def _find_file(box: NamedBox, names: dict[str, list[Path]], *, source: Path, folder: Path) -> Path | None:
    """Find the file with the name of a box's image; None without such a file.

    Raises:
        AnnotationError: several files have this name.
    """
    key = _key(box).removeprefix("./")
    matches = names.get(key, [])
    if not matches and box.file_name is None:
        try:
            matches = names.get(f"#{whole_number(box.image_id)}", [])
        except ValueError:
            matches = []
    if len(matches) > 1:
        both = shortened(" and ".join(str(path.relative_to(folder)) for path in matches[:2]))
        raise AnnotationError(
            f"{source}: image {shortened(key, most=60)} of a box may be {both}; name paths in {folder} as file_name, "
            "or give --annotations."
        )
    return matches[0] if matches else None


def _drop_partial_scores(prompts: Sequence[BoxPrompt]) -> list[BoxPrompt]:
    """Keep the scores only if all boxes have one, because boxes without a score cannot be ranked among others."""
    if all(prompt.score is not None for prompt in prompts):
        return list(prompts)
    return [BoxPrompt(prompt.image_id, prompt.box, prompt.category) for prompt in prompts]


def _measure_images(paths: dict[int, Path], *, folder: Path, progress: Progress) -> list[CocoImage]:
    """Make records of the files, with the sizes in their headers."""
    records, broken = [], []
    for number, path in paths.items():
        try:
            width, height = image_size(path)
        except ImageError as error:
            broken.append(str(error))
            continue
        name = str(path.relative_to(folder))
        records.append(CocoImage(id=number, file_name=name, width=width, height=height))
    note_skipped(broken, total=len(paths), progress=progress)
    return records
