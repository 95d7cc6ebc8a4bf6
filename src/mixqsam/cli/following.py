"""Commands to suggest after a command: complete, with the options of the run, and with outputs that are new."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixqsam.cli.command import line
from mixqsam.cli.conflicts import CHOICE, RECONSTRUCTION
from mixqsam.directories import free_path
from mixqsam.options.fields import Nested
from mixqsam.options.flat import flat_values
from mixqsam.options.names import RECONSTRUCTING_RECIPES
from mixqsam.options.values import OptionClass
from mixqsam.pipeline.data import Data, Evaluation

# Placeholders for what a run does not know.
FOLDER, MODEL, IMAGE = "FOLDER", "YOUR_SAM", "IMAGE"


def new_path(path: Path | str) -> str:
    """Name an output that does not exist yet."""
    return str(free_path(Path(path)))


def data_values(images: Any) -> dict[str, Any]:
    """Options of images and prompts; a placeholder for photographs that no option names."""
    return flat_values(images) if isinstance(images, OptionClass) else {"images": FOLDER}


def evaluation_values(evaluation: Evaluation) -> dict[str, Any]:
    """Options of an evaluation for `quantize`, which takes one file of boxes: of several, the first detector's."""
    named = evaluation.data.by_detector() if isinstance(evaluation.data, Data) else {}
    one = replace(evaluation, data=next(iter(named.values()))) if named else evaluation
    return flat_values(one, Nested(prefix="eval_"))


def after_quantization(folder: Path, *, images: Any, cache: Path | None, device: str) -> dict[str, str]:
    """Suggest what to do with a quantized directory: command → purpose."""
    data = data_values(images)
    evaluation = {"models": [str(folder)], **data, "cache": cache, "device": device}
    return {
        line("evaluate", evaluation): "judge it on all images",
        line("serve", {"models": [str(folder)], "images": data["images"]}): "try it in the browser",
        line("export", {"model": str(folder), "output": new_path(f"{folder}-onnx")}): "run it in ONNX Runtime",
    }


def without_choice(values: Mapping[str, Any], *, keep: bool = False) -> dict[str, Any]:
    """Options without those of the choice of bits; `keep` leaves fixed bits in."""
    dropped = {*CHOICE, "budget"} if keep else {*CHOICE, "budget", "keep"}
    return {name: value for name, value in values.items() if name not in dropped}


def after_comparison(recipe: Any, budget: str, *, uniform: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Suggest the quantization of the best model of a comparison.

    Args:
        recipe: its recipe; one of parts has no spelling on the command line, and no suggestion.
        budget: its budget.
        uniform: its bits, if it is uniform; else empty.
        values: options of the comparison.
    """
    if not isinstance(recipe, str):
        return {}
    chosen = without_choice(values, keep=True) if uniform else dict(values)
    if recipe not in RECONSTRUCTING_RECIPES:
        chosen = {name: value for name, value in chosen.items() if name not in RECONSTRUCTION}
    chosen |= {"recipe": recipe, "budget": f"uniform:{uniform}" if uniform else budget, "output": new_path("out")}
    return {line("quantize", chosen): "the best of these"}


def after_allocation(file: Path, *, origin: Mapping[str, Any]) -> dict[str, str]:
    """Suggest the quantization with a stored allocation.

    Args:
        file: the allocation.
        origin: options of the run that measured the analysis; model and images are placeholders if it has none.
    """
    values = {"model": MODEL, "images": FOLDER, **without_choice(origin)}
    values |= {"allocation": str(file), "output": new_path("out")}
    return {line("quantize", values): "a model with these bits"}
