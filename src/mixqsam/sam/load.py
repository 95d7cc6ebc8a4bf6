"""A model from wherever it is: the embedded one, a hub id, a local directory, or a checkpoint in another layout."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mixqsam.errors import InputError, ModelError, NumericError, shortened
from mixqsam.families import FAMILIES, family_of, find_checkpoint_family, prepare
from mixqsam.families.checkpoint import check_tied, describe_state, read_state, tell_left_out, without_prefix
from mixqsam.families.family import Family, Larger
from mixqsam.families.image_processor import from_place
from mixqsam.families.resizing import resize_model, resize_processor
from mixqsam.families.sizes import names_of
from mixqsam.numeric.memory import align_tensors
from mixqsam.numeric.weights import QuantizedTensor
from mixqsam.options.frames import split_frame
from mixqsam.plan import Costs
from mixqsam.resize import PixelSettings
from mixqsam.sam.released import find_release, release_named
from mixqsam.sam.units import count_costs

EMBEDDED = "sam-tiny"


@dataclass(frozen=True)
class Sam:
    """A model ready to run, with what prepares its images.

    Attributes:
        model: in evaluation mode; its attentions and MLPs are those of the engine.
        processor: resizes and normalises images.
        source: where it came from, as the user said it.
        rest: tensors of no unit that are stored as codes (see `mixqsam.sam.compact`); none of a float model.
    """

    model: PreTrainedModel
    processor: Any
    source: str
    rest: Mapping[str, QuantizedTensor] = field(default_factory=dict)

    @property
    def config(self) -> Any:
        """The architecture."""
        return self.model.config

    @property
    def family(self) -> Family:
        """What the engine has to know of the model."""
        return family_of(self.config)

    @property
    def image_size(self) -> int:
        """The side of the encoder's input."""
        return self.family.framing.image_size(self.config)

    @property
    def pixel_settings(self) -> PixelSettings:
        """What the image processor does with pixels."""
        return self.family.framing.settings(self.processor)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        device: torch.device = self.model.device
        return device

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the names, shapes and values of all tensors, and of what else changes the outputs."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        # Only what is unusual: caches of models with the usual settings stay what they are.
        if unusual := _unusual_settings(self):
            total.update(repr(unusual).encode())
        return total.hexdigest()

    def costs(self, *, prompts_per_image: int = 1) -> Costs:
        """Units and what they cost."""
        return count_costs(self.config, prompts_per_image=prompts_per_image)


def _unusual_settings(sam: Sam) -> list[tuple[str, object]]:
    """What tensors do not tell, and is not as the family's released checkpoints have it."""
    unusual = list(sam.family.unusual(sam.config))
    if sam.pixel_settings != sam.family.framing.settings(default_processor(sam.config)):
        unusual.append(("pixels", sam.pixel_settings))
    return unusual


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
        is_cpu_build = name.startswith("cuda") and torch.version.cuda is None and torch.version.hip is None
        why = f": PyTorch {torch.__version__} is a build for the CPU alone" if is_cpu_build else ""
        raise InputError(f"The device {name!r} cannot be used here{why}; there is {', '.join(found)}.") from error


def load_sam(source: str | Path, *, device: str = "cpu") -> Sam:
    """Load a float model.

    Args:
        source: `sam-tiny` (embedded), a local directory in transformers' layout, a checkpoint in its project's own
            layout (Meta's `.pth`), a hub id, or the name of a released checkpoint (`sam-vit-base`). An ending such as
            `@512` asks for smaller frames, here of 512 pixels.
        device: a torch device.

    Raises:
        InputError: the frames that are asked for do not fit the model; the message names some that do.
        ModelError: nothing there, another architecture, or a cut or malformed file; the message says what is wrong.
        NumericError: a tensor holds NaN or infinity; the message names it.
    """
    text, side = split_frame(source)
    model, processor = _load_checkpoint(text)
    _check_finite(model, text)
    if side is not None:
        resized = resize_model(model, side, source=text)
        processor = processor if resized is model else resize_processor(processor, model, resized, source=text)
        model = resized
    align_tensors(model)
    return Sam(prepare(model).eval().requires_grad_(False).to(torch.device(device)), processor, str(source))


def _load_checkpoint(text: str) -> tuple[PreTrainedModel, Any]:
    """A model as transformers has it, and its image processor, from wherever it is."""
    path = Path(text).expanduser()
    released = {name: place for family in FAMILIES.values() for name, place in family.released.items()}
    if path.is_file():
        return _load_foreign(path)
    if path.is_dir():
        return _load_transformers(str(path))
    if text == EMBEDDED:
        return _load_transformers(str(resources.files("mixqsam") / "assets" / EMBEDDED))
    if (release := release_named(text)) is not None:
        return _load_foreign(find_release(release))
    if text in released:
        return _load_transformers(released[text])
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return _load_hub(text, folder=path.parent)
    raise ModelError(f"Unknown model {text!r}: it is not a file, a directory, {EMBEDDED!r} or a hub id (owner/name).")


def _load_hub(text: str, *, folder: Path) -> tuple[PreTrainedModel, Any]:
    """A model of the hub; a folder may have its owner's name."""
    try:
        return _load_transformers(text)
    except ModelError as error:
        if folder.is_dir():
            raise ModelError(f"{text} is not in the folder {folder}; as an id on the hub: {error}") from error
        raise


def _check_finite(model: PreTrainedModel, source: str) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NumericError(f"{source}: the tensor {name} holds NaN or infinity; the checkpoint is damaged.")


def _load_transformers(place: str) -> tuple[PreTrainedModel, Any]:
    try:
        values, _ = PreTrainedConfig.get_config_dict(place)
        family, larger, values = _check_config(values, place)
        transformers_logging.disable_progress_bar()
        more: dict[str, Any] = {}
        if larger is not None:
            more = {"config": family.config.from_dict(values), "key_mapping": dict(larger.renames) or None}
        model, info = _naming_all(family.model).from_pretrained(
            place, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **more
        )
        model.__class__ = family.model
    except ModelError:
        raise
    # transformers, safetensors and the hub's client each raise errors of their own, for whatever is wrong.
    except Exception as error:
        raise ModelError(f"{place} cannot be loaded as a SAM: {shortened(error, most=300)}") from error
    left_out = {name for name in info["unexpected_keys"] if larger and name.startswith(larger.left_out)}
    if foreign := set(info["unexpected_keys"]) - left_out:
        raise ModelError(
            f"{place} is another variant of SAM: {len(foreign)} foreign tensors ({names_of(foreign)}). "
            "Merge them into the model's own weights, or remove them."
        )
    missing = sorted(_tie(model, set(info["missing_keys"]), family, place))
    if missing or info["mismatched_keys"]:
        what = f"{len(missing)} tensors are missing ({', '.join(missing[:3])}, …)" if missing else "shapes differ"
        raise ModelError(f"{place} does not hold all weights of its SAM: {what}.")
    if larger is not None:
        tell_left_out(place, left_out, title=larger.title)
    return model, from_place(family.framing, place, model.config)


def _naming_all(model: type[PreTrainedModel]) -> Any:
    """A class of models that does not keep quiet about any tensor that it has no place for."""

    def post_init(self: Any) -> None:
        model.post_init(self)
        self._keys_to_ignore_on_load_unexpected = set()

    # transformers renames tensors only for classes that seem to be its own.
    return type(model.__name__, (model,), {"post_init": post_init, "__module__": model.__module__})


def _tie(model: PreTrainedModel, missing: set[str], family: Family, place: str) -> set[str]:
    """Share each tensor that the family shares, from wherever the checkpoint has it; returns what is missing then."""
    for name, owner in family.tied.items():
        tensor, other = model.get_parameter(name), model.get_parameter(owner)
        if name not in missing and owner not in missing:
            check_tied(name, tensor, owner, other, source=place)
        elif not {name, owner} <= missing:
            tensor.data = other.data = other.data if name in missing else tensor.data
            missing = missing - {name, owner}
    if family.tied:
        # Not as the file has it, but as the model is from here on.
        model.config.tie_word_embeddings = True
        model.tie_weights()
    return missing


def _check_config(values: dict[str, Any], place: str) -> tuple[Family, Larger | None, dict[str, Any]]:
    """The family of a checkpoint, the larger model that it is of, if any, and the values that the family has."""
    kind = values.get("model_type")
    if kind is None:
        raise ModelError(
            f"{place}: config.json is missing or has no model_type; mixqsam quantizes models of type "
            f"{', '.join(repr(name) for name in FAMILIES)}."
        )
    family, larger = find_checkpoint_family(str(kind), source=place)
    if "quantization_config" in values:
        raise ModelError(f"{place} is quantized already; give the float checkpoint that it was made from.")
    if larger is not None:
        try:
            values = larger.image_part(values)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{place} is {larger.title}, but its config.json does not say {error}.") from error
    family.check(values)
    return family, larger, values


def default_processor(config: Any) -> Any:
    """The family's preprocessing for an architecture."""
    return family_of(config).framing.default(config)


def _load_foreign(path: Path) -> tuple[PreTrainedModel, Any]:
    layouts = [layout for family in FAMILIES.values() for layout in family.layouts]
    marks = [mark for layout in layouts for mark in layout.marks]
    state = without_prefix(read_state(path), marks, path)
    fitting = [layout for layout in layouts if state.keys() >= set(layout.marks)]
    if fitting:
        return max(fitting, key=lambda layout: len(layout.marks)).load(state, path)
    known = ", ".join(layout.name for layout in layouts)
    raise ModelError(
        f"{path} has a layout that is not known. It holds {describe_state(state)}. Expected are all tensors of a "
        f"model in the layout of {known}; for transformers' layout give the directory with config.json."
    )
