"""What the engine has to know of a family of models: a value of type `Family`, one file for each family.

The engine (`mixqsam.sam`, and all that is built on it) asks this value and never the name of a module. It finds units,
their order and what they cost by tracing one forward, and runs blocks from the arguments that they were called with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from mixqsam.plan import Part, Role
from mixqsam.resize import PixelSettings

# Named tensors: what an encoder gives a decoder, or what prompts are embedded as. The map whose places become the
# decoder's tokens is `embedding`.
Maps = Mapping[str, Tensor]


@dataclass(frozen=True)
class PromptTensors:
    """Prompts of one image in the frame's pixels.

    Attributes:
        boxes: [1, P, 4], or None.
        points: [1, P, n, 2], or None.
        labels: [1, P, n], or None.
        masks: [1, P, 1, 4h, 4w], or None.
    """

    boxes: Tensor | None
    points: Tensor | None
    labels: Tensor | None
    masks: Tensor | None = None

    def __len__(self) -> int:
        for tensor in (self.boxes, self.points, self.masks):
            if tensor is not None:
                return tensor.shape[1]
        return 0

    def piece(self, start: int, stop: int) -> "PromptTensors":
        """Prompts start … stop − 1."""
        parts = (self.boxes, self.points, self.labels, self.masks)
        return PromptTensors(*(None if part is None else part[:, start:stop] for part in parts))


class Decode(Protocol):
    """Decodes N images' maps with the same P prompts."""

    def __call__(self, model: Any, maps: Maps, prompts: Maps, *, multimask: bool) -> tuple[Tensor, Tensor]:
        """Logits [N, P, M, 4h, 4w] and predicted IoU [N, P, M]; M is 1, or 3 with `multimask`."""
        ...


@dataclass(frozen=True)
class Framing:
    """How an image becomes what the encoder takes.

    Attributes:
        image_size: the side of the encoder's input, from a configuration.
        processor: transformers' class of image processors.
        default: a processor for an architecture, where a checkpoint has none.
        check: looks at a checkpoint's own processor; a ValueError names the field that the architecture cannot take.
        settings: what a processor does with pixels.
        apply: an image → pixels [1, 3, S, S], and its height and width within the frame, each at least 1.
        apply_resized: values [height, width, 3] of 0 to 255, which are as large as the frame already → the same.
        public: the processor's name in files, of which the library chooses a backend.
        stretches: both sides of an image become the frame's; otherwise the longer one does, and the rest is padding.
    """

    image_size: Callable[[Any], int]
    processor: Any
    default: Callable[[Any], Any]
    check: Callable[[Any, Any], None]
    settings: Callable[[Any], PixelSettings]
    apply: Callable[[Any, Image.Image], tuple[Tensor, tuple[int, int]]]
    apply_resized: Callable[[Any, NDArray[np.float32]], tuple[Tensor, tuple[int, int]]]
    public: str = "SamImageProcessor"
    stretches: bool = False


@dataclass(frozen=True)
class BlockPath:
    """A module that reconstruction takes as one piece.

    Attributes:
        path: of the module.
        is_global: its attention spans the whole image; stages of reconstruction end with such blocks.
        within, until: where more than the module belongs to the piece (a sum and a normalisation behind it): the
            module whose forward the piece ends with, and the module there that gives the piece's output.
    """

    path: str
    is_global: bool = False
    within: str | None = None
    until: str | None = None


@dataclass(frozen=True)
class Layout:
    """Another project's way to write the same checkpoints: a state dict under other names.

    Attributes:
        name: as messages call it.
        marks: names of tensors that every checkpoint of this layout has. Where several layouts fit, the one with the
            most marks is meant.
        load: a state dict without a prefix, and the file that it comes from (for messages) → the model and its image
            processor. Raises a ModelError that names a foreign or missing tensor.
    """

    name: str
    marks: tuple[str, ...]
    load: Callable[[Mapping[str, Tensor], Path], tuple[PreTrainedModel, Any]]


@dataclass(frozen=True)
class Larger:
    """A larger model that holds one of the family, and whose checkpoints are loaded for that part.

    Attributes:
        title: what it is, as messages call it.
        image_part: values of its `config.json` → those of the family's. Raises a KeyError that names a missing part.
        left_out: starts of the names of tensors that are not the family's.
        renames: regular expression → what it becomes in the names of tensors, where transformers does not do it.
    """

    title: str
    image_part: Callable[[Mapping[str, Any]], dict[str, Any]]
    left_out: tuple[str, ...]
    renames: Mapping[str, str] = field(default_factory=dict)


def _no_tensor_changes(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    raise ValueError(f"a tensor of shape {tuple(tensor.shape)} does not fit {shape}")


@dataclass(frozen=True)
class Resizing:
    """How models of a family come to see frames of another size.

    Attributes:
        multiple: configuration → pixels of which the frame's side is a multiple.
        configure: writes a new side into the values of a configuration, everywhere, in place.
        fit: a tensor whose shape depends on the frame, and the shape that it has to have → the interpolated tensor.
            Families that interpolate in their forward have no such tensor.
    """

    multiple: Callable[[Any], int]
    configure: Callable[[dict[str, Any], int], None]
    fit: Callable[[Tensor, tuple[int, ...]], Tensor] = _no_tensor_changes


def _as_it_is(model: Any) -> None:
    """For families that transformers computes as their authors do."""
    del model


def _nothing_unusual(config: Any) -> Sequence[tuple[str, object]]:
    """For families whose tensors tell all."""
    del config
    return ()


# Equality of families is identity: there is one value for each.
@dataclass(frozen=True, eq=False)
class Family:
    """All that is particular to one family.

    Attributes:
        name: `model_type` of its configurations.
        title: its name, as messages call it.
        model: transformers' class of models.
        config: transformers' class of configurations.
        part: name of a module → the part of the model that it belongs to; None for what stays float.
        roles: last component of a unit's name → its role; convolutions need none.
        block: name of a unit → the short name of its block, as reports show it.
        blocks: configuration → the blocks in the order of the data; every unit lies in one of them.
        image_tokens: module of the decoder, and which of its outputs, that holds the image's tokens after they have met
            the prompts.
        tied: parameter → the parameter whose tensor it shares.
        check: looks at the values of a `config.json`; a ValueError names the entry that no model of the family has.
        prepare: puts the engine's attentions and MLPs in place, and folds what can be folded; in place. It mends, too.
        framing: how an image becomes the encoder's input.
        encode: pixels [N, 3, S, S] → the maps that the decoder takes.
        embed: prompts → what the decoder takes of them.
        decode: maps and embedded prompts → logits and scores.
        mend: puts right what transformers computes otherwise than the family's authors; in place.
        unusual: configuration → names and values of what tensors do not tell and released checkpoints do not have.
        layouts: other ways to write its checkpoints.
        larger: `model_type` of a larger model → what of it is of the family.
        resizing: how a model comes to see frames of another size; None where it keeps its size.
        hold_single_mask: keeps a single mask single, whatever its stability; in place. None where it always is.
        released: name of a released checkpoint → its hub id.
        sample: a configuration of a few thousand parameters, with every kind of module. On it an unknown version of
            transformers is compared with the engine; None for no comparison.
    """

    name: str
    title: str
    model: type[PreTrainedModel]
    config: type[PreTrainedConfig]
    part: Callable[[str], Part | None]
    roles: Mapping[str, Role]
    block: Callable[[str], str]
    blocks: Callable[[Any], Sequence[BlockPath]]
    image_tokens: tuple[str, int]
    tied: Mapping[str, str]
    check: Callable[[Mapping[str, Any]], None]
    prepare: Callable[[Any], None]
    framing: Framing
    encode: Callable[[Any, Tensor], Maps]
    embed: Callable[[Any, PromptTensors], Maps]
    decode: Decode
    mend: Callable[[Any], None] = _as_it_is
    unusual: Callable[[Any], Sequence[tuple[str, object]]] = _nothing_unusual
    layouts: tuple[Layout, ...] = ()
    larger: Mapping[str, Larger] = field(default_factory=dict)
    resizing: Resizing | None = None
    hold_single_mask: Callable[[Any], None] | None = None
    released: Mapping[str, str] = field(default_factory=dict)
    sample: Callable[[], PreTrainedConfig] | None = None

    def __repr__(self) -> str:
        return f"<family {self.name}>"
