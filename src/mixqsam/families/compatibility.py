"""Check that the installed transformers computes SAM as the engine does.

The engine replaces attentions and MLPs of transformers' models and calls their prompt encoder and mask decoder. A new
version of transformers may change any of them. Versions that passed all tests are listed; another version is compared
once in a process, on a random model of a few thousand parameters, before the first model of a family is prepared.
"""

from copy import deepcopy
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from mixqsam.errors import DependencyError
from mixqsam.families.family import Family, PromptTensors

# Versions of transformers with which all tests passed; the newest is last.
KNOWN_VERSIONS = ("5.5.0", "5.5.4", "5.10.4", "5.15.1", "5.20.2", "5.23.0", "5.24.0")

# Both forwards sum the same products in another order: float32 differs by about 1e-6 of the largest value.
_TOLERANCE = 1e-4


def check_transformers(family: Family) -> None:
    """Compare a family's own forward with the engine's, unless the installed transformers is known to work.

    Raises:
        DependencyError: they differ, or the engine cannot call the model; the message names the versions.
    """
    installed = version("transformers")
    if family.sample is not None and installed not in KNOWN_VERSIONS:
        _compare_once(family, installed)


@cache
def _compare_once(family: Family, installed: str) -> None:
    # A failure is not cached: it raises at each model.
    try:
        difference = _largest_difference(family)
    # Whatever an unknown version raises, the reason is the version.
    except Exception as error:
        raise _refusal(family, installed, f"{type(error).__name__}: {error}") from error
    if not difference <= _TOLERANCE:
        raise _refusal(family, installed, f"outputs differ by {difference:.1e} of the largest value")


def _refusal(family: Family, installed: str, reason: str) -> DependencyError:
    return DependencyError(
        f"mixqsam does not compute models of type {family.name!r} as transformers {installed} does ({reason}). "
        f"Install a version that is known to work: pip install transformers=={KNOWN_VERSIONS[-1]}"
    )


def _largest_difference(family: Family) -> float:
    """The largest difference of maps, logits and scores, each as a part of its largest absolute value."""
    # The caller may be building a model on the device "meta". Its random numbers stay as they are.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.no_grad():
        reference = random_model(family)
        size = family.framing.image_size(reference.config)
        pixels = torch.randn(1, 3, size, size)
        boxes = torch.tensor([[[2.0, 3.0, 0.6 * size, 0.8 * size]]])
        family.mend(reference)
        prepared = deepcopy(reference)
        family.prepare(prepared)
        expected = *family.encode(reference, pixels).values(), *_forward_of_transformers(reference, pixels, boxes)
        computed = _forward_of_engine(family, prepared, pixels, boxes)
    return max(_relative(one, other) for one, other in zip(expected, computed, strict=True))


def random_model(family: Family) -> Any:
    """The family's smallest model, with random values that give every module an effect."""
    assert family.sample is not None  # noqa: S101  (the caller asked)
    config = family.sample()
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model: nn.Module = family.model(config).eval()
    for parameter in model.parameters():
        spread = 0.5 if parameter.ndim < 2 else 1.2 / parameter[0].numel() ** 0.5
        parameter.normal_(std=spread)
    return model


def _forward_of_transformers(model: Any, pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    output = model(pixel_values=pixels, input_boxes=boxes, multimask_output=True)
    return output.pred_masks, output.iou_scores


def _forward_of_engine(family: Family, model: Any, pixels: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
    maps = family.encode(model, pixels)
    prompts = family.embed(model, PromptTensors(boxes, None, None))
    return *maps.values(), *family.decode(model, maps, prompts, multimask=True)


def _relative(expected: Tensor, computed: Tensor) -> float:
    if expected.shape != computed.shape:
        raise ValueError(f"an output has the shape {tuple(computed.shape)} instead of {tuple(expected.shape)}")
    return float((expected - computed).abs().max() / expected.abs().max())
