"""A SAM from wherever it is: the embedded one, a hub id, a local directory, or Meta's `.pth`."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import SamConfig, SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.utils import logging as transformers_logging

from mixqsam.errors import InputError, ModelError, NumericError
from mixqsam.numeric.memory import align_tensors
from mixqsam.numeric.weights import QuantizedTensor
from mixqsam.plan import Costs
from mixqsam.sam.attention import split_attention
from mixqsam.sam.meta import config_of, is_meta_layout, rename
from mixqsam.sam.sizes import check_sizes
from mixqsam.sam.units import count_costs

EMBEDDED = "sam-tiny"
# The prompt encoder shares this table with the model; a checkpoint may hold it once or twice.
SHARED = "prompt_encoder.shared_embedding.positional_embedding"


@dataclass(frozen=True)
class Sam:
    """A model ready to run, with what prepares its images.

    Attributes:
        model: in evaluation mode; its attentions are those of `mixqsam.sam.attention`.
        processor: resizes, normalises and pads images.
        source: where it came from, as the user said it.
        rest: tensors of no unit that are stored as codes (see `mixqsam.sam.compact`); none of a float model.
    """

    model: SamModel
    processor: SamImageProcessorPil
    source: str
    rest: Mapping[str, QuantizedTensor] = field(default_factory=dict)

    @property
    def config(self) -> SamConfig:
        """The architecture."""
        config: SamConfig = self.model.config
        return config

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        device: torch.device = self.model.device
        return device

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the names, shapes and values of all tensors."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return total.hexdigest()

    def costs(self, *, prompts_per_image: int = 1) -> Costs:
        """Units and what they cost."""
        return count_costs(self.config, prompts_per_image=prompts_per_image)


def check_device(name: str) -> None:
    """Refuse a device that this machine or this build of PyTorch does not have.

    Raises:
        InputError: the message says which there are.
    """
    try:
        torch.empty(0, device=name)
    # A build without CUDA answers with an AssertionError.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InputError(f"The device {name!r} cannot be used here; there is {', '.join(found)}.") from error


def load_sam(source: str | Path, *, device: str = "cpu") -> Sam:
    """Load a float SAM.

    Args:
        source: `sam-tiny` (embedded), a local directory in transformers' layout, Meta's `.pth`, or a hub id.
        device: a torch device.

    Raises:
        ModelError: nothing there, another architecture, or a cut or malformed file; the message says what is wrong.
        NumericError: a tensor holds NaN or infinity; the message names it.
    """
    text = str(source)
    path = Path(text).expanduser()
    if path.is_file():
        model, processor = _load_meta(path)
    elif path.is_dir():
        model, processor = _load_transformers(str(path))
    elif text == EMBEDDED:
        model, processor = _load_transformers(str(resources.files("mixqsam") / "assets" / EMBEDDED))
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not path.parent.is_dir():
        model, processor = _load_transformers(text)
    else:
        raise ModelError(
            f"Unknown model {text!r}: it is no file, no directory, not {EMBEDDED!r} and not a hub id (owner/name)."
        )
    _check_finite(model, text)
    align_tensors(model)
    return Sam(split_attention(model).eval().requires_grad_(False).to(torch.device(device)), processor, text)


def _check_finite(model: SamModel, source: str) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NumericError(f"{source}: the tensor {name} holds NaN or infinity; the checkpoint is damaged.")


def _load_transformers(place: str) -> tuple[SamModel, SamImageProcessorPil]:
    try:
        values, _ = SamConfig.get_config_dict(place)
        _check_config(values, place)
        transformers_logging.disable_progress_bar()
        model, info = SamModel.from_pretrained(
            place, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    except ModelError:
        raise
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        SafetensorError,
        json.JSONDecodeError,
    ) as error:
        raise ModelError(f"{place} cannot be loaded as a SAM: {_short(error)}") from error
    missing = sorted(set(info["missing_keys"]) - {SHARED})
    if missing or info["mismatched_keys"]:
        what = f"{len(missing)} tensors are missing ({', '.join(missing[:3])}, …)" if missing else "shapes differ"
        raise ModelError(f"{place} does not hold all weights of its SAM: {what}.")
    return model, _processor(place, model.config)


def _check_config(values: dict[str, Any], place: str) -> None:
    kind = values.get("model_type")
    if kind is None:
        raise ModelError(f"{place} holds no config.json of a transformers model.")
    if kind != "sam":
        raise ModelError(f"{place} is a {kind!r} model; mixqsam quantizes the family 'sam' (ViT-B, L, H and others).")
    if "quantization_config" in values:
        raise ModelError(f"{place} is quantized already; give the float checkpoint that it was made from.")
    check_sizes(values)


def _processor(place: str, config: SamConfig) -> SamImageProcessorPil:
    """The checkpoint's own image processor; one made from its sizes if it has none."""
    try:
        processor: SamImageProcessorPil = SamImageProcessorPil.from_pretrained(place)
    except (OSError, ValueError):
        return default_processor(config)
    if processor.pad_size["height"] != config.vision_config.image_size:
        return default_processor(config)
    return processor


def default_processor(config: SamConfig) -> SamImageProcessorPil:
    """SAM's preprocessing for an architecture: longest edge to the input size, ImageNet statistics, zero padding."""
    size, mask = config.vision_config.image_size, 4 * config.prompt_encoder_config.image_embedding_size
    return SamImageProcessorPil(
        size={"longest_edge": size},
        pad_size={"height": size, "width": size},
        mask_size={"longest_edge": mask},
        mask_pad_size={"height": mask, "width": mask},
    )


def _load_meta(path: Path) -> tuple[SamModel, SamImageProcessorPil]:
    state = _read_pth(path)
    try:
        config = config_of(state)
        with torch.device("meta"):
            model = SamModel(config)
    except KeyError as error:
        raise ModelError(f"{path} is cut or is no SAM: the tensor {error} is missing.") from error
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(f"{path} has tensors of sizes that no SAM has: {_short(error)}") from error
    tensors = rename(state)
    tensors[SHARED] = tensors.get("shared_image_embedding.positional_embedding", torch.empty(0))
    _check_tensors(path, expected=model.state_dict(), found=tensors)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    model.tie_weights()
    return model, default_processor(config)


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises whatever its unpickler or zip reader met; all of it means that the file cannot be read.
        # Its own words are left out: for a file with code in it, they advise to run the code.
        raise ModelError(
            f"{path} cannot be read as a PyTorch checkpoint: it is cut, damaged, or holds more than tensors "
            f"({type(error).__name__}). Download it again, or save its state dict alone."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} is no state dict of tensors; expected Meta's `sam_vit_*.pth`.")
    if not is_meta_layout(state):
        raise ModelError(
            f"{path} has not the layout of Meta's SAM (no image_encoder.patch_embed.proj.weight); "
            "for transformers' layout give the directory with config.json."
        )
    return state


def _check_tensors(path: Path, *, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    missing, foreign = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        raise ModelError(f"{path} is cut or is no SAM: {len(missing)} tensors are missing, e.g. {missing[0]}.")
    if foreign:
        raise ModelError(f"{path} is another variant of SAM: {len(foreign)} foreign tensors, e.g. {foreign[0]}.")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ModelError(f"{path}: {name} has shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}.")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:300] + "…"
