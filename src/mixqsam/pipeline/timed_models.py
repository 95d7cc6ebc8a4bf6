"""Models to be timed: any bits in any backend, made from a float model in seconds and without calibration images."""

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mixqsam.artifact.manifest import Manifest
from mixqsam.data.samples import Sample
from mixqsam.deployed.backends import BACKENDS
from mixqsam.deployed.predictor import ExportedPredictor
from mixqsam.errors import InputError
from mixqsam.files import Cache
from mixqsam.pipeline.stages import TORCH, check_backend
from mixqsam.plan import BitPlan
from mixqsam.prediction import Predictor
from mixqsam.progress import Silent
from mixqsam.prompts import Prompts
from mixqsam.quantization.quantize import quantize
from mixqsam.quantization.recipes import find_recipe
from mixqsam.runtime.build import integer_model
from mixqsam.sam.load import Sam
from mixqsam.sam.predictor import SamPredictor
from mixqsam.weight_grids import GridLibrary

# The times do not depend on values: ranges of one image of noise serve.
_RECIPE = "minmax"


def check_installed(name: str) -> None:
    """Check that models can be exported to a backend and run here.

    Raises:
        InputError: the backend is unknown, or is not installed; the message names the extra.
    """
    check_backend(name)
    if not is_installed(name):
        raise InputError(f"{BACKENDS[name].title} is not installed: pip install 'mixqsam[{name}]'.")


def is_installed(name: str) -> bool:
    """Whether models can be exported to a known backend and run here."""
    return name == TORCH or BACKENDS[name].is_installed


def make_picture(size: int) -> Image.Image:
    """Make an image of noise, as wide as the frame of a model."""
    pixels = np.random.default_rng(0).integers(0, 256, (size * 3 // 4, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make_middle_box(image: Image.Image) -> Prompts:
    """Make a box around the middle half of an image."""
    width, height = image.width, image.height
    return Prompts(boxes=np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]]))


def load_predictor(sam: Sam, plan: BitPlan, *, backend: str) -> Predictor:
    """Load a finished model in a backend, with as many threads as PyTorch.

    Args:
        sam: a float or a quantized model, on the CPU.
        plan: its bits.
        backend: name of the backend.

    Raises:
        InputError: the model cannot be exported; the message says why.
    """
    if backend == TORCH:
        is_float = all(bits.is_float for bits in plan.bits.values())
        return SamPredictor(sam if is_float else integer_model(sam))
    from mixqsam.exporting.files import ExportOptions, export  # noqa: PLC0415  (it needs the extra)

    manifest = Manifest.of(sam, plan, recipe=_RECIPE, prompts_per_image=1)
    with tempfile.TemporaryDirectory() as folder:
        export(sam, manifest, Path(folder), backend=BACKENDS[backend], options=ExportOptions())
        # A loaded model needs its files no more.
        return ExportedPredictor(folder, backend=backend, threads=torch.get_num_threads())


@dataclass(frozen=True)
class TimedModels:
    """Quantized forms of one float model that are as fast as real ones.

    Attributes:
        sam: the float model, on the CPU.
        backend: name of the backend.
        folder: an empty folder for a picture and its ranges.
    """

    sam: Sam
    backend: str
    folder: Path

    @cached_property
    def picture(self) -> Image.Image:
        """The image that is encoded."""
        return make_picture(self.sam.image_size)

    @cached_property
    def prompts(self) -> Prompts:
        """The prompt that is decoded."""
        return make_middle_box(self.picture)

    @cached_property
    def _sample(self) -> Sample:
        path = self.folder / "picture.png"
        self.picture.save(path)
        return Sample(path, self.picture.width, self.picture.height, self.prompts)

    @cached_property
    def _grids(self) -> GridLibrary:
        return GridLibrary()

    def load(self, plan: BitPlan) -> Predictor:
        """Make the model with these bits, and load it in the backend.

        Raises:
            InputError: the model cannot be exported; the message says why.
        """
        made = quantize(
            self.sam,
            plan,
            [self._sample],
            recipe=find_recipe(_RECIPE),
            cache=Cache(self.folder / "cache"),
            progress=Silent(),
            grids=self._grids,
        ).sam
        return load_predictor(made, plan, backend=self.backend)
