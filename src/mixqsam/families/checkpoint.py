"""Checkpoints of PyTorch in the layouts of other projects: read safely, and held against the model that they fill."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from mixqsam.errors import ModelError, shortened
from mixqsam.families.sizes import names_of

# Where training code puts the weights, beside its optimizer and counters; the first that is there is taken.
_ENTRIES = ("model", "state_dict", "model_state", "model_state_dict", "module", "sam", "net", "network", "params")
# Prefixes that wrappers of models write: DataParallel, torch.compile, Lightning, and modules that hold a SAM.
_PREFIX = re.compile(r"(?:(?:module|_orig_mod|model|sam|sam_model|net|network)\.)*")
_log = logging.getLogger(__name__)

_VALUES = (Tensor, bool, int, float, str, type(None))


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote, or those of the one entry that holds a model's weights.

    Files of safetensors are read too.

    Raises:
        ModelError: it cannot be read, or holds no state dict.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    entries = content if isinstance(content, dict) else {}
    named = [entries[name] for name in _ENTRIES if name in entries]
    for candidate in (content, *named):
        if state := _tensors_of(candidate):
            return state
    others = [name for name, value in entries.items() if _tensors_of(value)]
    if len(others) == 1:
        return _tensors_of(entries[others[0]])
    found = f" It has the entries {names_of(map(str, entries))}." if entries else ""
    raise ModelError(
        f"{path} is not a state dict of tensors; expected a checkpoint such as Meta's `sam_vit_*.pth`, or one with its "
        f"weights in an entry such as 'model' or 'state_dict'.{found}"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as a safetensors file: {shortened(error)}.") from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises whatever its unpickler or zip reader met; all of it means that the file cannot be read.
        # Its own words are left out: for a file with code in it, they advise to run the code.
        raise ModelError(
            f"{path} cannot be read as a PyTorch checkpoint: it is cut, damaged, or holds more than tensors "
            f"({type(error).__name__}). Download it again, or save its state dict alone."
        ) from error


def _tensors_of(candidate: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, which may hold counters beside them; empty for anything else."""
    if not isinstance(candidate, dict) or not all(isinstance(v, _VALUES) for v in candidate.values()):
        return {}
    return {str(name): tensor for name, tensor in candidate.items() if isinstance(tensor, Tensor)}


def without_prefix(state: Mapping[str, Tensor], marks: Sequence[str], path: Path) -> dict[str, Tensor]:
    """The tensors without the prefix that training code puts before all names of a model.

    Args:
        state: names and tensors.
        marks: names that one layout each always has.
        path: names the file in errors.

    Raises:
        ModelError: there is a prefix that training code is not known to write, or tensors lie outside of it.
    """
    marked = [(name, mark) for mark in marks for name in state if name == mark or name.endswith(f".{mark}")]
    prefixes = sorted({name.removesuffix(mark) for name, mark in marked}, key=len)
    if not prefixes or prefixes[0] == "":
        return dict(state)
    prefix = prefixes[0]
    outside = [name for name in state if not name.startswith(prefix)]
    if len(prefixes) > 1 or outside or not _PREFIX.fullmatch(prefix):
        foreign = f"Foreign tensors: {names_of(outside)}. " if outside else ""
        raise ModelError(
            f"{path} holds a SAM under the prefix {' and '.join(map(repr, prefixes))}. {foreign}"
            "Save the state dict of the SAM alone, without a prefix."
        )
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def describe_state(state: Mapping[str, Tensor]) -> str:
    """What tensors a file holds, by the first part of their names: for messages."""
    counts = Counter(name.partition(".")[0] for name in state)
    parts = [f"{name} ({count})" for name, count in counts.most_common(5)]
    return f"{len(state)} tensors: {', '.join(parts)}{', …' if len(counts) > len(parts) else ''}"


def with_tied(tensors: Mapping[str, Tensor], tied: Mapping[str, str], *, source: str) -> dict[str, Tensor]:
    """Tensors with both names of each shared one, whichever of them is there.

    Args:
        tensors: by name.
        tied: parameter → the parameter whose tensor it shares.
        source: names the file in errors.

    Raises:
        ModelError: both are there and differ.
    """
    filled = dict(tensors)
    for name, owner in tied.items():
        if name in filled and owner in filled:
            check_tied(name, filled[name], owner, filled[owner], source=source)
        elif name in filled or owner in filled:
            filled[name] = filled[owner] = filled[name] if name in filled else filled[owner]
    return filled


def check_tied(name: str, tensor: Tensor, owner: str, other: Tensor, *, source: str) -> None:
    """Refuse two different tensors where the family has one.

    Raises:
        ModelError: they differ; the message names both.
    """
    if not torch.equal(tensor.float(), other.float()):
        raise ModelError(
            f"{source}: {name} and {owner} differ. A SAM has one table of positions for image and prompts; delete the "
            "one that was not trained."
        )


def tell_left_out(place: object, names: Collection[str], *, title: str) -> None:
    """Say which tensors of a larger model are not used, if any.

    Args:
        place: of the checkpoint.
        names: of those tensors.
        title: of the larger model.
    """
    if names:
        _log.warning(
            "%s is %s. Its image part is loaded; %d other tensors are left out (%s).",
            place,
            title,
            len(names),
            names_of(names),
        )


def fill_model(model: PreTrainedModel, tensors: Mapping[str, Tensor], path: Path, *, kind: str = "SAM") -> None:
    """Put tensors, as float32, in the places of a model's on the meta device; `kind` names the model in errors.

    Raises:
        ModelError: a tensor is missing, foreign or of another shape.
    """
    expected: Mapping[str, Any] = model.state_dict()
    missing, foreign = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing:
        raise ModelError(f"{path} is cut or is not a {kind}: {len(missing)} tensors are missing ({names_of(missing)}).")
    if foreign:
        raise ModelError(f"{path} is another variant of {kind}: {len(foreign)} foreign tensors ({names_of(foreign)}).")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise ModelError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}.")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    model.tie_weights()
