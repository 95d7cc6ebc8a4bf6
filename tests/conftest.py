"""Tiny random models and pictures; the shared COCO subset where it is to be had."""

import importlib.util
import os
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from benchmarks.tiny import make_model
from PIL import Image
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from mixqsam.data.samples import Sample
from mixqsam.errors import InputError
from mixqsam.files import Cache
from mixqsam.heap import keep_freed_memory
from mixqsam.pipeline.options import Session
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts
from mixqsam.sam.load import Sam, load_sam
from mixqsam.web.package import find_package

# Tiny models are slower on two threads than on one; two workers of the suite fill two cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
keep_freed_memory()
# What the tests write need not outlive the machine.
os.fsync = lambda fd: None


def load_script(path: Path) -> ModuleType:
    """A script as a module, whatever its ending."""
    loader = SourceFileLoader(path.stem.replace("-", "_"), str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SAM in transformers' layout."""
    return make_model(tmp_path_factory.mktemp("tiny-sam"))


@pytest.fixture(scope="session")
def sam(model_directory: Path) -> Sam:
    return load_sam(model_directory)


def draw(path: Path, *, width: int, height: int, seed: int) -> Path:
    """A picture with a bright disc on noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    disc = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(width, height) / 3) ** 2
    pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
    pixels[disc] += 120
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of different shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder / "a.png", width=64, height=40, seed=1)
    draw(folder / "b.jpg", width=40, height=64, seed=2)
    draw(folder / "c.webp", width=50, height=50, seed=3)
    return folder


@pytest.fixture(scope="session")
def samples(picture_folder: Path) -> list[Sample]:
    boxes = np.array([[5.0, 5.0, 30.0, 30.0], [10.0, 2.0, 38.0, 36.0]])
    return [
        Sample(picture_folder / "a.png", 64, 40, Prompts(boxes=boxes), image_id=1, categories=(1, 1)),
        Sample(picture_folder / "b.jpg", 40, 64, Prompts(boxes=boxes[:1]), image_id=2, categories=(1,)),
    ]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(Cache(tmp_path / "cache"), Silent())


@pytest.fixture(scope="session")
def coco() -> Path:
    """The shared COCO subset: `$MIXQSAM_COCO`, else beside the repository."""
    beside = Path(__file__).parents[2] / "shared/data/coco-mini"
    folder = Path(os.environ.get("MIXQSAM_COCO") or beside)
    if not (folder / "annotations/instances_val2017.json").is_file():
        pytest.skip(f"needs a COCO subset at $MIXQSAM_COCO (looked at {folder})")
    return folder


@pytest.fixture(scope="session")
def get_runtime_package() -> Callable[[], Path]:
    """Get the browser's runtime from the user's cache or from npm; tests that set another cache call it too."""
    cache = os.environ.get("MIXQSAM_CACHE")

    def get() -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MIXQSAM_CACHE", cache) if cache else patch.delenv("MIXQSAM_CACHE", raising=False)
            try:
                return find_package()
            except InputError as error:
                pytest.skip(f"needs the npm package onnxruntime-web: {error}")

    return get


DETECTOR_NAMES = {0: "disc", 1: "N/A", 2: "hot_dog"}


@pytest.fixture(scope="session")
def detector_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny real DETR with random weights."""
    folder = tmp_path_factory.mktemp("tiny-detr")
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=7,
        id2label=DETECTOR_NAMES,
        label2id={name: label for label, name in DETECTOR_NAMES.items()},
    )
    torch.manual_seed(0)
    DetrForObjectDetection(config).save_pretrained(folder)
    DetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Four pictures: what the recipes that reconstruct need."""
    folder = tmp_path_factory.mktemp("four")
    boxes = Prompts(boxes=np.array([[5.0, 5.0, 30.0, 30.0], [10.0, 2.0, 38.0, 36.0]]))
    return [Sample(draw(folder / f"{i}.png", width=64, height=40, seed=i), 64, 40, boxes, image_id=i) for i in range(4)]
