"""The image processor of a checkpoint: read from its file, checked, and given as plain numbers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, cached_file

from mixqsam.errors import ArtifactError, ModelError, shortened
from mixqsam.families.family import Framing
from mixqsam.files import read_json
from mixqsam.resize import PixelSettings

_SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_pad", "do_center_crop")
_CHANNELS_FIRST = (None, "channels_first", "first")


def from_place(framing: Framing, place: str | Path, config: Any) -> Any:
    """The image processor that lies beside a checkpoint; the family's default where there is none.

    Args:
        framing: of the family.
        place: a directory, or an id on the hub.
        config: the architecture.

    Raises:
        ModelError: its file cannot be read, or asks for what is not supported; the message names file and field.
    """
    path = _find_file(str(place))
    if path is None:
        return framing.default(config)
    try:
        processor = framing.processor.from_pretrained(str(place))
        framing.check(processor, config)
    # A class of the library fails on a wrong entry anywhere, with whatever error that has there.
    except Exception as error:
        raise ModelError(
            f"{path} cannot be used: {shortened(error, most=300)}. Mend it, or delete it for SAM's own preprocessing "
            "at the model's size."
        ) from error
    return processor


def _find_file(place: str) -> Path | None:
    """The file with a checkpoint's image processor, if there is one."""
    for name in (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME):
        try:
            found = cached_file(place, name, _raise_exceptions_for_missing_entries=False)
        except OSError as error:
            raise ModelError(f"{place}: {name} cannot be fetched: {shortened(error)}.") from error
        if found is None:
            continue
        path = Path(found)
        try:
            values = read_json(path, what="an image processor")
        except ArtifactError as error:
            raise ModelError(str(error)) from error
        if not isinstance(values, Mapping):
            raise ModelError(f"{path} is not the configuration of an image processor; expected fields and values.")
        if name == IMAGE_PROCESSOR_NAME or "image_processor" in values:
            return path
    return None


def check_padded(processor: Any, side: int) -> None:
    """Refuse a processor that does not bring images to the top left of a square of `side` pixels.

    Raises:
        ValueError: the message names the field.
    """
    to = f"vision_config.image_size ({side} pixels)"
    check_fields(
        processor,
        needed={"do_resize": f"images have to be scaled to {to}", "do_pad": f"images have to be padded to {to}"},
    )
    _check_square(processor, side)
    settings_of(processor)


def check_fields(processor: Any, *, needed: Mapping[str, str]) -> None:
    """Refuse switches that are not one, a crop, and other orders of the axes.

    Args:
        processor: whose fields are looked at.
        needed: field that has to be true → why.

    Raises:
        ValueError: the message names the field.
    """
    for name in _SWITCHES:
        value = getattr(processor, name, None)
        if not isinstance(value, bool | None):
            raise ValueError(f"{name} is {value!r:.60}; expected true or false")
    for name, reason in needed.items():
        if not getattr(processor, name):
            raise ValueError(f"{name} is false, but {reason}")
    if getattr(processor, "do_center_crop", None):
        raise ValueError("do_center_crop is true; a SAM sees the whole image")
    for name in ("data_format", "input_data_format"):
        if getattr(processor, name, None) not in _CHANNELS_FIRST:
            raise ValueError(f"{name} is not channels_first")


def _check_square(processor: Any, side: int) -> None:
    longest, padded = dict(processor.size).get("longest_edge"), dict(processor.pad_size)
    if not isinstance(longest, int) or not 1 <= longest <= side:
        raise ValueError(f"size is {_said(processor.size)}; expected longest_edge of at most {side}, the model's size")
    if (padded.get("height"), padded.get("width")) != (side, side):
        raise ValueError(
            f"pad_size is {_said(processor.pad_size)}, but vision_config.image_size is {side}; they have to be the same"
        )


def _said(size: Any) -> str:
    return shortened({name: value for name, value in dict(size).items() if value is not None})


def settings_of(processor: Any) -> PixelSettings:
    """What a processor does with pixels.

    Raises:
        ValueError: a setting is not a number that makes sense; the message names it.
    """
    factor = _number("rescale_factor", processor.rescale_factor) if processor.do_rescale else 1.0
    if factor <= 0:
        raise ValueError(f"rescale_factor is {factor:.6g}; expected more than 0")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor.do_normalize:
        mean, std = _three("image_mean", processor.image_mean), _three("image_std", processor.image_std)
    if min(std) <= 0:
        raise ValueError(f"image_std is {list(std)}; expected more than 0")
    try:
        resample = int(Image.Resampling(processor.resample))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"resample is {processor.resample!r:.60}; expected Pillow's number of a filter, 0 to 5"
        ) from error
    size = dict(processor.size)
    return PixelSettings(int(size.get("longest_edge") or size["height"]), resample, factor, mean, std)


def _three(name: str, value: Any) -> tuple[float, float, float]:
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3:
        raise ValueError(f"{name} has {len(values)} values; expected one for each of 3 channels")
    red, green, blue = (_number(name, one) for one in values)
    return red, green, blue


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r:.60}; expected a number")
    return float(value)
