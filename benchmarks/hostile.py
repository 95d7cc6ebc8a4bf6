"""What is tried on every reader: seeds that it accepts, and ways to spoil them."""

import io
import json
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tiny import make_model, make_pictures
from mixqsam.allocation.budget import parse_keep, resolve_budget
from mixqsam.allocation.choose import Allocation
from mixqsam.artifact.store import load_model, weight_files
from mixqsam.data.coco import annotated_samples, read_detections
from mixqsam.data.dota import DotaImage, read_labels, read_task2
from mixqsam.data.images import open_image
from mixqsam.data.labelmaps import LabelledImage, find_regions
from mixqsam.evaluation.coco import Truth
from mixqsam.files import read_json
from mixqsam.numeric.tensor_file import TensorFile
from mixqsam.pipeline.options import AnalysisOptions, Checking, Data, Options, Session
from mixqsam.pipeline.quantize import run_quantization
from mixqsam.plan import Analysis
from mixqsam.report.run import Run
from mixqsam.sam.load import load_sam


@dataclass(frozen=True)
class Reader:
    """One thing that we read.

    Attributes:
        seeds: contents that are accepted.
        name: of the file that the content is written to.
        read: given that file.
        text: contents are JSON, and are spoiled as values too.
    """

    seeds: Sequence[bytes]
    name: str
    read: Callable[[Path], object]
    text: bool = False


# --- spoiling ----------------------------------------------------------------------------------------------------------

_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 10**12, 10**400, -(10**12), 0.5, 1e308, -1e308, float("nan"), float("inf"),
    "", "x", "../../etc/passwd", "/etc/passwd", "\u0000", "٣", "a" * 5000, [], {}, [[]], [1, 2, 3, 4], {"a": 1}, "1e5", "W4A4",
)  # fmt: skip
_TOKENS = (b"\x00", b"\xff" * 8, b"1e999", b"-", b"NaN", b"[" * 2000, b'{"a":', b"99999999999999", b"\xef\xbb\xbf", b"../")


def spoil(content: bytes, draw: random.Random, *, others: Sequence[bytes], text: bool) -> bytes:
    """A content that is probably no longer good."""
    if text and draw.random() < 0.7:
        return _spoil_value(content, draw)
    result = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        _spoil_bytes(result, draw, others)
    return bytes(result)


def _spoil_bytes(content: bytearray, draw: random.Random, others: Sequence[bytes]) -> None:
    if not content:
        content += draw.choice(_TOKENS)
        return
    # Headers are at the beginning, and are where the interesting faults are.
    place = draw.randrange(min(len(content), draw.choice((16, 64, 1 << 30))))
    end = min(len(content), place + draw.choice((1, 2, 4, 8, 64, 1024)))
    kind = draw.randrange(8)
    if kind == 0:
        content[place] ^= 1 << draw.randrange(8)
    elif kind == 1:
        content[place] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
    elif kind == 2:
        del content[place:end]
    elif kind == 3:
        content[place:place] = content[place:end]
    elif kind == 4:
        content[place:place] = draw.choice(_TOKENS)
    elif kind == 5:
        del content[place:]
    elif kind == 6:
        number = draw.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**12))
        size = draw.choice((4, 8))
        content[place : place + size] = (number % 2 ** (8 * size)).to_bytes(size, draw.choice(("little", "big")))
    else:
        other = draw.choice(others)
        start = draw.randrange(len(other) + 1)
        content[place:end] = other[start : start + draw.choice((4, 64, 4096))]


def _spoil_value(content: bytes, draw: random.Random) -> bytes:
    try:
        value = json.loads(content)
    except ValueError:
        return content[: draw.randrange(len(content) + 1)]
    for _ in range(draw.choice((1, 1, 2, 3))):
        value = _replaced(value, draw)
    return json.dumps(value).encode()


def _replaced(value: Any, draw: random.Random) -> Any:
    """The value with one of its parts put in another's place, removed, doubled, or made nonsense."""
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack and len(places) < 3000:
        one = stack.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else []
        for key in keys:
            places.append((one, key))
            stack.append(one[key])
    if not places or draw.random() < 0.02:
        return draw.choice(_VALUES)
    owner, key = draw.choice(places)
    kind = draw.randrange(5)
    if kind == 0:
        del owner[key]
    elif kind == 1 and isinstance(owner, list):
        owner.append(owner[key])
    elif kind == 2:
        other, name = draw.choice(places)
        owner[key] = json.loads(json.dumps(other[name])) if name in _keys(other) else None
    elif kind == 3 and isinstance(owner[key], int | float) and not isinstance(owner[key], bool):
        owner[key] = owner[key] * draw.choice((-1, 0, 0.5, 2, 10**6, 10**12)) + draw.choice((0, 1, -1))
    else:
        owner[key] = draw.choice(_VALUES)
    return value


def _keys(owner: Any) -> Any:
    return owner if isinstance(owner, dict) else range(len(owner))


# --- readers -----------------------------------------------------------------------------------------------------------


def make_readers(folder: Path) -> dict[str, Reader]:
    """All of them; `folder` holds what their files refer to."""
    model, pictures = make_model(folder / "model"), make_pictures(folder / "pictures", count=3)
    out = folder / "out"
    run_quantization(
        model,
        Data(pictures, grid=2),
        budget="W4A4",
        output=out,
        options=Options(analysis=AnalysisOptions(count=2)),
        session=Session(),
        checking=Checking(limit=1),
    )
    return {
        "analysis": Reader([(out / "analysis.json").read_bytes()], "analysis.json", _analysis, text=True),
        "allocation": Reader([(out / "allocation.json").read_bytes()], "allocation.json", _allocation, text=True),
        "run record": Reader([(out / "run.json").read_bytes()], "run.json", _run, text=True),
        "packed tensors": Reader([(out / "model.safetensors").read_bytes()], "model.safetensors", _tensors),
        "packed model": Reader(
            [(out / "model.safetensors").read_bytes()], "model.safetensors", lambda path: _model(path, beside=out)
        ),
        "packed configuration": Reader(
            [(out / "config.json").read_bytes()], "config.json", lambda path: _model(path, beside=out), text=True
        ),
        "index of shards": Reader(_index_seeds(), "model.safetensors.index.json", _index, text=True),
        "Meta's .pth": Reader([_pth(model)], "sam_vit_tiny.pth", load_sam),
        "COCO annotations": Reader(_coco_seeds(), "instances.json", lambda path: _coco(path, pictures), text=True),
        "COCO results": Reader([_results_seed()], "boxes.json", read_detections, text=True),
        "DOTA labels": Reader(_dota_seeds(), "P0001.txt", read_labels),
        "DOTA boxes": Reader([b"P0001 0.9 1 2 30 40\nP0001 0.5 3 4 9 9\n"], "Task2_plane.txt", _task2),
        "images": Reader(_image_seeds(), "picture.png", open_image),
        "label maps": Reader(_map_seeds(), "labels.png", _labels),
        "budgets": Reader([b"W4A4", b"size=12.5MB,bitops=3T", b"0.2x", b"neck.*=8"], "budget.txt", _budget(out)),
    }


def _analysis(path: Path) -> object:
    return Analysis.from_json(read_json(path, what="an analysis"), source=str(path))


def _allocation(path: Path) -> object:
    return Allocation.from_json(read_json(path, what="an allocation"), source=str(path))


def _run(path: Path) -> object:
    return Run.from_json(read_json(path, what="the record of a run"), source=str(path))


def _tensors(path: Path) -> object:
    with TensorFile(path, checked=True) as tensors:
        names = sorted(tensors._left)
        units = [name.removesuffix(".weight") for name in names if name.endswith("attn.qkv.weight")]
        taken = [tensors.weight(unit, bits=4, shape=(72, 24)) for unit in units]
        taken += [tensors.quantizer(f"{unit}.input", kind="affine", bits=4) for unit in units]  # type: ignore[misc]
        for name in sorted(tensors._left):
            tensors._read(name)
        return taken


def _model(path: Path, *, beside: Path) -> object:
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        if name != path.name and not (path.parent / name).exists():
            (path.parent / name).symlink_to(beside / name)
    return load_model(path.parent)


def _index_seeds() -> list[bytes]:
    return [json.dumps({"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()]


def _index(path: Path) -> object:
    files = weight_files(path.parent)
    assert all(one.parent == path.parent for one in files)
    return files


def _pth(model: Path) -> bytes:
    """The tiny model in Meta's layout, as far as its names go."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(model / "model.safetensors")
    patch = next(value for name, value in tensors.items() if name.endswith("patch_embed.projection.weight"))
    state = {"image_encoder.patch_embed.proj.weight": patch, "image_encoder.pos_embed": torch.zeros(1, 5, 5, 24)}
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def _coco_seeds() -> list[bytes]:
    polygon = [10, 10, 50, 10, 50, 50, 10, 50]
    plain = {"size": [60, 64], "counts": [100, 20, 3720]}
    packed = {"size": [60, 64], "counts": "PPYo1"}
    shapes: list[Any] = [[polygon], plain, packed, [polygon, [1, 1, 5, 1, 5, 5]]]
    images = [{"id": i + 1, "file_name": f"{i:02}.png", "width": 64, "height": 60} for i in range(2)]
    boxes = [
        {"id": i + 1, "image_id": 1 + i % 2, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600.0, "iscrowd": 0}
        for i in range(4)
    ]
    instances = [{**box, "segmentation": shape} for box, shape in zip(boxes, shapes, strict=True)]
    categories = [{"id": 1, "name": "disc"}]
    files = [{"images": images, "annotations": instances, "categories": categories}]
    files += [{"images": images, "annotations": [one], "categories": categories} for one in instances]
    return [json.dumps(one).encode() for one in files]


def _coco(path: Path, pictures: Path) -> object:
    samples = annotated_samples(path, images=pictures)
    assert all(sample.path.is_relative_to(pictures) for sample in samples)
    truth = Truth(path)
    masks = [truth.masks(sample) for sample in samples]
    box = {"category_id": 1, "segmentation": {"size": [60, 64], "counts": "PPYo1"}, "score": 0.5}
    results = [{"image_id": sample.image_id, **box} for sample in samples]
    return masks, truth.score(results, images=[sample.image_id for sample in samples])


def _results_seed() -> bytes:
    one = {"image_id": 1, "category_id": 1, "bbox": [1.5, 2.0, 30.0, 40.0], "score": 0.9}
    return json.dumps([one, {**one, "image_id": 2}]).encode()


def _dota_seeds() -> list[bytes]:
    return [
        b"imagesource:GoogleEarth\ngsd:0.146\n1 1 9 1 9 9 1 9 plane 0\n",
        b"1.5 1 9 1.25 9 9 1 9 small-vehicle 1\n2 2 5 2 5 5 2 5 ship",
    ]


def _task2(path: Path) -> object:
    return read_task2(path.parent, images=[DotaImage(Path("P0001.png"), ())])


def _image_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (24, 31, 3), dtype=np.uint8))
    frames = [rgb.convert("P"), rgb.transpose(Image.Transpose.ROTATE_180).convert("P")]
    found = []
    for image, kind, more in (
        (rgb, "PNG", {}),
        (rgb, "JPEG", {"exif": _rotated()}),
        (rgb, "WEBP", {}),
        (rgb, "BMP", {}),
        (rgb, "TIFF", {}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb.convert("CMYK"), "TIFF", {}),
        (rgb.convert("P"), "PNG", {"transparency": 3}),
        (rgb.convert("LA"), "PNG", {}),
        (rgb.convert("1"), "PNG", {}),
        (Image.fromarray(rng.integers(0, 65536, (24, 31), dtype=np.uint16)), "PNG", {}),
        (Image.fromarray(rng.random((24, 31), dtype=np.float32)), "TIFF", {}),
        (frames[0], "GIF", {"save_all": True, "append_images": frames[1:]}),
        (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)]}),
    ):
        stream = io.BytesIO()
        image.save(stream, format=kind, **more)
        found.append(stream.getvalue())
    # A PNG whose header claims 2^31 - 1 pixels a side.
    bomb = bytearray(found[0])
    bomb[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    return [*found, bytes(bomb)]


def _rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _map_seeds() -> list[bytes]:
    labels = np.zeros((24, 31), dtype=np.uint8)
    labels[4:16, 4:20] = 3
    found = []
    for image in (Image.fromarray(labels), Image.fromarray(labels).convert("P"), Image.fromarray(labels > 0)):
        stream = io.BytesIO()
        image.save(stream, format="PNG")
        found.append(stream.getvalue())
    return found


def _labels(path: Path) -> object:
    return find_regions(LabelledImage(path, path).read(width=31, height=24))


def _budget(out: Path) -> Callable[[Path], object]:
    analysis = Analysis.from_json(read_json(out / "analysis.json", what="an analysis"), source="analysis")

    def read(path: Path) -> object:
        text = path.read_bytes().decode("utf-8", errors="replace")
        if "=" in text and not text.startswith(("size", "bitops")):
            return parse_keep([text], names=[unit.name for unit in analysis.units])
        return resolve_budget(text, analysis.costs)

    return read


def contents(reader: Reader, *, seed: int, start: int = 0) -> "Mapping[int, bytes] | Any":
    """Number → content, without end: the seeds themselves, then spoiled ones; each depends on its number alone."""
    index = start
    while True:
        if index < len(reader.seeds):
            yield index, reader.seeds[index]
        else:
            draw = random.Random(f"{seed} {index}")
            yield index, spoil(draw.choice(reader.seeds), draw, others=reader.seeds, text=reader.text)
        index += 1
