"""A detector from transformers: DETR, Deformable DETR, RT-DETR, YOLOS and others that its auto classes load."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForObjectDetection

# In the lowest versions, the name of the package itself asks for torchvision.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging as transformers_logging

from mixqsam.boxes import Detections, Selection
from mixqsam.errors import AnnotationError, ModelError, shortened
from mixqsam.numeric.memory import align_tensors

# Selections of the published evaluations by model type (docs/method.md, “Instance segmentation”). Other models use
# the defaults of `Selection`.
SELECTIONS: Mapping[str, Selection] = {
    "detr": Selection(score=0.0, top=100),
    "conditional_detr": Selection(score=0.0, top=100),
    "deformable_detr": Selection(score=0.0, top=100),
    "rt_detr": Selection(score=0.0, top=300),
    "rt_detr_v2": Selection(score=0.0, top=300),
    "d_fine": Selection(score=0.0, top=300),
    "yolos": Selection(score=0.0, top=100),
}


@dataclass(frozen=True)
class Detector:
    """A detector ready to run.

    Attributes:
        model, processor: objects of transformers.
        source: hub id or directory, as the user gave it.
    """

    model: Any
    processor: Any
    source: str

    @property
    def selection(self) -> Selection:
        """The selection of boxes in the published evaluations of this detector."""
        return SELECTIONS.get(str(self.model.config.model_type), Selection())

    @property
    def names(self) -> dict[int, str]:
        """Label → name."""
        return {int(label): str(name) for label, name in self.model.config.id2label.items()}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights, the configuration and the image processor."""
        total = hashlib.sha256(f"{self.model.config.to_json_string()}{self.processor.to_json_string()}".encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return total.hexdigest()

    @torch.no_grad()
    def detect(self, image: Image.Image, *, score: float) -> Detections:
        """Detect all boxes of an RGB image with at least this score, in pixels; labels are the detector's."""
        batch = self.processor(images=image, return_tensors="pt").to(self.model.device)
        outputs = self.model(**batch)
        size = [(image.height, image.width)]
        # The processor keeps scores above the threshold; a slightly lower one includes scores equal to it.
        threshold = float(np.nextafter(np.float32(score), np.float32(-1.0)))
        results = self.processor.post_process_object_detection(outputs, threshold=threshold, target_sizes=size)[0]
        return Detections(*(results[key].double().cpu().numpy() for key in ("boxes", "scores", "labels")))


def load_detector(source: str | Path, *, device: str = "cpu") -> Detector:
    """Load a detector: a hub id or a local directory; safetensors only, no code from the checkpoint.

    Raises:
        ModelError: the model cannot be loaded, or is not a detector; the message says why.
    """
    text = str(source)
    verbosity, has_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        processor = AutoImageProcessor.from_pretrained(text)
        model = AutoModelForObjectDetection.from_pretrained(text, use_safetensors=True)
    except ImportError as error:
        raise ModelError(
            f"{text} cannot be loaded as a detector: {_missing_package(error)} A detector that needs no other package "
            "is PekingU/rtdetr_r50vd."
        ) from error
    # transformers and the hub's client each raise errors of their own; all of them mean that there is no such detector.
    except Exception as error:
        reason = shortened(error)
        raise ModelError(
            f"{text} cannot be loaded as a detector: {reason} "
            "Give a hub id or a directory of a transformers detector (DETR, Deformable DETR, RT-DETR, YOLOS) with "
            "safetensors weights and its image processor."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bars:
            transformers_logging.enable_progress_bar()
    if not hasattr(processor, "post_process_object_detection"):
        raise ModelError(f"{text}: its image processor ({type(processor).__name__}) does not belong to a detector.")
    align_tensors(model)
    return Detector(model.eval().requires_grad_(False).to(torch.device(device)), processor, text)


def _missing_package(error: ImportError) -> str:
    """Name the package that a detector needs, and how to install it."""
    named = re.search(r"pip install (?:-U )?([\w.-]+\w)", str(error))
    package = named[1] if named else error.name
    return f"it needs {package}: pip install {package}." if package else f"{shortened(error, most=400)}"


def match_categories(names: Mapping[int, str], categories: Mapping[int, str], *, source: str) -> dict[int, int]:
    """Match labels to categories by name: label → category, without labels that have no category.

    Args:
        names: label → name.
        categories: category → name.
        source: name of the detector in the error.

    Raises:
        AnnotationError: no name occurs in both.
    """
    by_name = {_normalize(name): category for category, name in categories.items() if name}
    matches = {label: by_name[_normalize(name)] for label, name in names.items() if _normalize(name) in by_name}
    if not matches:
        examples = [", ".join(sorted(str(n) for n in table.values())[:5]) for table in (names, categories)]
        raise AnnotationError(
            f"{source} and the annotations have no category in common: the detector has {examples[0]}, …; "
            f"the annotations have {examples[1]}, …."
        )
    return matches


def _normalize(name: str) -> str:
    return name.strip().lower().replace("_", " ").replace("-", " ")
