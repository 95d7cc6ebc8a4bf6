"""Boxes that come without annotations: their images are found by a list in the file, or by their names."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mixqsam.data.coco import BoxPrompt, find_images, prompted_samples
from mixqsam.data.images import image_size, list_images, note_skipped
from mixqsam.data.records import CocoImage, NamedBox, read_boxes, whole_number
from mixqsam.data.samples import Sample
from mixqsam.errors import AnnotationError, ImageError, shortened
from mixqsam.progress import Progress


def boxed_samples(boxes: Path, *, images: Path, skip_missing: bool = False, progress: Progress) -> list[Sample]:
    """Images of a folder with the boxes of a file as prompts; images without boxes are left out.

    A file with a list `images` says by that which box belongs where. Else a box's `file_name` does, or an `image_id`
    that is the name of exactly one file: `000000000139`, `139` or `"000000000139.jpg"` for `000000000139.jpg`.

    Args:
        boxes: a COCO-results file, or one with `images` and `annotations`.
        images: a folder.
        skip_missing: leave out boxes of images that the folder does not hold, and count them.
        progress: is told what was left out.

    Raises:
        AnnotationError: the file is malformed, or a box's image is not one file of the folder.
        ImageError: no images, or none that can be read.
    """
    found, listed = read_boxes(boxes)
    if listed is not None:
        numbered = _numbered(found, listed, source=boxes)
        wanted = {box.image_id for box in numbered}
        used = [image for image in listed if image.id in wanted]
        paths = find_images(used, folder=images, source=boxes, skip_missing=skip_missing, progress=progress)
        records = [image for image in used if image.id in paths]
    else:
        numbered, paths = _matched(found, images, source=boxes, skip_missing=skip_missing, progress=progress)
        records = _measured(paths, folder=images, progress=progress)
    return prompted_samples(records, numbered, paths=paths, source=boxes, progress=progress)


def _numbered(boxes: Sequence[NamedBox], images: Sequence[CocoImage], *, source: Path) -> list[BoxPrompt]:
    """Boxes by the numbers of the file's own list of images."""
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
    return _scored_alike(prompts)


def _matched(
    boxes: Sequence[NamedBox], folder: Path, *, source: Path, skip_missing: bool, progress: Progress
) -> tuple[list[BoxPrompt], dict[int, Path]]:
    """Boxes by file names; images are numbered in the order of their paths."""
    files = list_images(folder)
    names = _names(files, folder)
    numbers = {path: number for number, path in enumerate(files, start=1)}
    prompts, missing = [], []
    for box in boxes:
        path = _file_of(box, names, source=source, folder=folder)
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
    return _scored_alike(prompts), {number: path for path, number in numbers.items() if number in used}


def _names(files: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    """All that a file may be called by: path in the folder, name, stem, and the number that the stem is."""
    names: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        stem = path.stem
        called = {str(path.relative_to(folder).as_posix()), path.name, stem}
        if stem.isascii() and stem.isdigit():
            called.add(f"#{int(stem)}")
        for name in called:
            names[name].append(path)
    return names


def _key(box: NamedBox) -> str:
    return str(box.image_id if box.file_name is None else box.file_name)


def _file_of(box: NamedBox, names: dict[str, list[Path]], *, source: Path, folder: Path) -> Path | None:
    """The one file that a box's image is called by; None where there is none.

    Raises:
        AnnotationError: several files are called so.
    """
    key = _key(box).removeprefix("./")
    found = names.get(key, [])
    if not found and box.file_name is None:
        try:
            found = names.get(f"#{whole_number(box.image_id)}", [])
        except ValueError:
            found = []
    if len(found) > 1:
        both = shortened(" and ".join(str(path.relative_to(folder)) for path in found[:2]))
        raise AnnotationError(
            f"{source}: image {shortened(key, most=60)} of a box may be {both}; name paths in {folder} as file_name, "
            "or give --annotations."
        )
    return found[0] if found else None


def _scored_alike(prompts: Sequence[BoxPrompt]) -> list[BoxPrompt]:
    """Scores for all boxes, or for none: a box without a score has no place among those with one."""
    if all(prompt.score is not None for prompt in prompts):
        return list(prompts)
    return [BoxPrompt(prompt.image_id, prompt.box, prompt.category) for prompt in prompts]


def _measured(paths: dict[int, Path], *, folder: Path, progress: Progress) -> list[CocoImage]:
    """Records of the files, with the sizes that their headers say."""
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
