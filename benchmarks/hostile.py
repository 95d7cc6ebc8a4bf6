"""The readers of the fuzzing tests, each with valid files."""

import io
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from PIL import Image

from benchmarks.tiny import make_model, make_pictures, quantize, random_model, tiny_config, to_meta
from mixqsam.allocation.budget import Budget, parse_keep
from mixqsam.allocation.choose import Allocation
from mixqsam.allocation.uniform import uniform_allocation
from mixqsam.artifact.manifest import parse_manifest
from mixqsam.artifact.store import load_model, weight_files
from mixqsam.data.coco import annotated_samples
from mixqsam.data.dota import DotaImage, read_labels, read_task2
from mixqsam.data.images import open_image
from mixqsam.data.labelmaps import LabelledImage, find_regions
from mixqsam.data.records import read_detections
from mixqsam.evaluation.coco import Truth
from mixqsam.files import read_json
from mixqsam.measurements import Analysis
from mixqsam.numeric.tensor_file import TensorFile
from mixqsam.plan import Operand, UnitBits
from mixqsam.reporting.network import network_svg, unit_facts
from mixqsam.reporting.record import Run
from mixqsam.sam.load import load_sam


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of file.

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


def make_readers(folder: Path) -> dict[str, Reader]:
    """Make all readers; `folder` contains the files that they need."""
    model, pictures = make_model(folder / "model"), make_pictures(folder / "pictures", count=3)
    out = quantize(model, pictures, folder / "out", check=1)
    return {
        "analysis": Reader([(out / "analysis.json").read_bytes()], "analysis.json", _analysis, text=True),
        "allocation": Reader([(out / "allocation.json").read_bytes()], "allocation.json", _allocation, text=True),
        "run record": Reader([(out / "run.json").read_bytes()], "run.json", _run, text=True),
        "packed tensors": Reader(
            [(out / "model.safetensors").read_bytes()], "model.safetensors", lambda path: _tensors(path, beside=out)
        ),
        "packed model": Reader(
            [(out / "model.safetensors").read_bytes()], "model.safetensors", lambda path: _model(path, beside=out)
        ),
        "packed configuration": Reader(
            [(out / "config.json").read_bytes()], "config.json", lambda path: _model(path, beside=out), text=True
        ),
        "index of shards": Reader(_index_seeds(), "model.safetensors.index.json", _index, text=True),
        "Meta's .pth": Reader([_pth()], "sam_vit_tiny.pth", load_sam),
        "COCO annotations": Reader(_coco_seeds(), "instances.json", lambda path: _coco(path, pictures), text=True),
        "COCO results": Reader([_results_seed()], "boxes.json", read_detections, text=True),
        "DOTA labels": Reader(_dota_seeds(), "P0001.txt", read_labels),
        "DOTA boxes": Reader([b"P0001 0.9 1 2 30 40\nP0001 0.5 3 4 9 9\n"], "Task2_plane.txt", _task2),
        "images": Reader(_image_seeds(), "picture.png", open_image),
        "label maps": Reader(_map_seeds(), "labels.png", _labels),
        "budgets": Reader([b"W4A4", b"size=12.5MB,bitops=3T", b"0.2x", b"neck.*=8"], "budget.txt", _budget(out)),
    }


def _analysis(path: Path) -> object:
    analysis = Analysis.from_json(read_json(path, what="an analysis"), source=str(path))
    plan = uniform_allocation(analysis, UnitBits(4, 4)).plan
    return network_svg(unit_facts(analysis, plan, None))


def _allocation(path: Path) -> object:
    return Allocation.from_json(read_json(path, what="an allocation"), source=str(path))


def _run(path: Path) -> object:
    return Run.from_json(read_json(path, what="the record of a run"), source=str(path))


def _tensors(path: Path, *, beside: Path) -> object:
    """All of a file's tensors as a model takes them: weights as codes, quantizers, the rest."""
    manifest = parse_manifest(read_json(beside / "config.json", what="")["quantization_config"], source="config.json")
    with TensorFile(path, checked=True) as tensors:
        taken: list[object] = []
        for unit, entry in manifest.units.items():
            operands: tuple[Operand, ...] = ("left", "right") if unit.endswith((".qk", ".av")) else ("input",)
            bits = UnitBits(entry.weight, entry.activation)
            taken += [tensors.quantizer(f"{unit}.{one}", kind="affine", bits=bits.of(one)) for one in operands]
        taken += [tensors.take(f"{name}_zero", shape=1, dtype=torch.uint8) for name in manifest.eight_bit]
        taken += [tensors._read(name) for name in sorted(tensors._left)]
        return taken


def _model(path: Path, *, beside: Path) -> object:
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        if name != path.name and not (path.parent / name).exists():
            (path.parent / name).symlink_to(beside / name)
    return load_model(path.parent)


def _index_seeds() -> list[bytes]:
    return [
        json.dumps({"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    ]


def _index(path: Path) -> object:
    files = weight_files(path.parent)
    assert all(one.parent == path.parent for one in files)
    return files


def _pth() -> bytes:
    """The tiny model in Meta's layout."""
    config = tiny_config()
    # Meta's files imply 8 heads.
    config.mask_decoder_config.num_attention_heads = 8
    stream = io.BytesIO()
    torch.save(to_meta(random_model(config).state_dict()), stream)
    return stream.getvalue()


_DISC = rle.encode(np.asfortranarray(np.tri(60, 64, dtype=np.uint8)))["counts"].decode("ascii")


def _coco_seeds() -> list[bytes]:
    polygon = [10, 10, 50, 10, 50, 50, 10, 50]
    plain = {"size": [60, 64], "counts": [100, 20, 3720]}
    packed = {"size": [60, 64], "counts": _DISC}
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
    box = {"category_id": 1, "segmentation": {"size": [60, 64], "counts": _DISC}, "score": 0.5}
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
        return Budget.parse(text).limits(analysis.costs)

    return read
