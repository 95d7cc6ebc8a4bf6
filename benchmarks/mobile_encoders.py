"""MobileSAM's image encoder as files of ours and of others, which the comparisons of speed and of accuracy share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.encoders import Array, Encoder
from mixqsam.allocation.budget import Budget
from mixqsam.artifact.manifest import Manifest
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import BACKENDS, ONNX, Backend
from mixqsam.deployed.names import EMBEDDING
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.exporting.files import ExportOptions, encoder_model, export, save_onnx
from mixqsam.files import Cache
from mixqsam.pipeline.data import Data, Evaluation
from mixqsam.pipeline.export import run_export
from mixqsam.pipeline.options import AllocationOptions, AnalysisOptions, Options, QuantizationOptions
from mixqsam.pipeline.quantize import run_quantization
from mixqsam.pipeline.session import Session
from mixqsam.pipeline.stages import calibration_samples
from mixqsam.progress import Progress, Silent
from mixqsam.sam.forward import make_frame
from mixqsam.sam.load import Sam, load_sam

MODEL = "mobile-sam"


class EncoderPredictor(ExportedPredictor):
    """A predictor with any encoder of frames, before the float decoder in ONNX Runtime.

    Args:
        directory: of the float model, exported for ONNX Runtime.
        encoder: frame → embedding.
        threads: of the decoder.
    """

    def __init__(self, directory: Path, encoder: Encoder, *, threads: int) -> None:
        super().__init__(directory, backend=ONNX.name, threads=threads)
        self._encode_frame = encoder

    def encode_image(self, image: Image.Image) -> None:
        """Encode an RGB image."""
        self._maps = {EMBEDDING: self._encode_frame(self.preprocessing.frame(image))}
        self._original = (image.height, image.width)


def float_directory(sam: Sam, folder: Path, backend: Backend) -> Path:
    """The float model, exported once."""
    target = folder / f"float-{backend.name}"
    if not target.exists():
        unfinished = folder / f".float-{backend.name}"
        unfinished.mkdir(parents=True, exist_ok=True)
        manifest = Manifest.of(sam, sam.costs().float_plan, recipe="none", prompts_per_image=1)
        export(sam, manifest, unfinished, backend=backend, options=ExportOptions())
        unfinished.replace(target)
    return target


def float_graph(sam: Sam, folder: Path) -> Path:
    """The float encoder as ONNX with its convolutions as convolutions, for tools that quantize it."""
    path = folder / "float.onnx"
    if not path.exists():
        manifest = Manifest.of(sam, sam.costs().float_plan, recipe="none", prompts_per_image=1)
        save_onnx(encoder_model(sam, manifest, ExportOptions(), sliced=False)[0], path)
    return path


def coco_data(coco: Path, split: str) -> Data:
    """A split of coco-mini."""
    return Data(coco / f"{split}2017", coco / f"annotations/instances_{split}2017.json")


def calibration_frames(sam: Sam, coco: Path, count: int, folder: Path) -> Path:
    """Frames [count, 3, S, S] of the first training images, as a file."""
    path = folder / f"frames-{count}.npy"
    if not path.exists():
        options = AnalysisOptions(count=count)
        samples = calibration_samples(coco_data(coco, "train"), options, Session(progress=Silent()))
        frames = np.concatenate([make_frame(sam, sample.open()).pixels.numpy() for sample in samples])
        unfinished = folder / f".frames-{count}.npy"
        np.save(unfinished, frames)
        unfinished.replace(path)
    return path


def judged_samples(coco: Path, *, first: int, count: int) -> list[Sample]:
    """Images first + 1 … first + count of val by sorted file name, those with boxes."""
    samples = sorted(coco_data(coco, "val").samples(count=None, progress=Silent()), key=lambda one: one.path.name)
    return [sample for sample in samples[first : first + count] if len(sample.prompts)]


def quantized_directory(coco: Path, folder: Path, *, budget: str, count: int, recipe: str, progress: Progress) -> Path:
    """A model of ours with a quantized encoder and a float decoder, made once; `budget` as on the command line."""
    target = folder / f"ours-{budget.replace(':', '-').lower()}"
    if not target.exists():
        run_quantization(
            MODEL,
            coco_data(coco, "train"),
            budget=Budget.parse(budget),
            output=target,
            options=Options(
                analysis=AnalysisOptions(count=count),
                allocation=AllocationOptions(keep=("mask_decoder.*=float",)),
                quantization=QuantizationOptions(recipe=recipe),
            ),
            session=Session(Cache(folder / "cache"), progress),
            evaluation=Evaluation(limit=0),
        )
    return target


def exported(directory: Path, backend: Backend) -> Path:
    """A quantized directory for a runtime, made once."""
    target = directory.with_name(f"{directory.name}-{backend.name}")
    if not target.exists():
        run_export(directory, target, kind=backend.name, session=Session(progress=Silent()))
    return target


def runtime_of(path: Path) -> Backend:
    """The runtime of an encoder's file."""
    return next(backend for backend in BACKENDS.values() if backend.endings[0] == path.suffix)


def file_bytes(path: Path) -> int:
    """Bytes of an encoder, weights included."""
    beside = [path.with_suffix(".bin"), path.with_name(f"{path.name}.data")]
    return path.stat().st_size + sum(one.stat().st_size for one in beside if one.exists())


def load_model() -> Sam:
    """MobileSAM in float."""
    return load_sam(MODEL)


def frames_of(path: Path) -> Sequence[Array]:
    """Frames [1, 3, S, S], read as they are asked for."""
    held: Any = np.load(path, mmap_mode="r")
    return [held[index : index + 1] for index in range(len(held))]
