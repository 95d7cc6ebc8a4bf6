"""Names of float models that also say the size of the frame: `sam-tiny@128` sees images of 128 pixels."""

import re
from pathlib import Path

from mixqsam.errors import InputError

_SIZED = re.compile(r"(.+)@([0-9]{1,6})")


def split_frame(source: str | Path) -> tuple[str, int | None]:
    """Split a name into the model and the side of its frame in pixels; None for the checkpoint's own.

    A file or folder with such a name is a model of its own size.
    """
    text = str(source)
    found = _SIZED.fullmatch(text)
    if found is None or Path(text).expanduser().exists():
        return text, None
    return found[1], int(found[2])


def with_frame(source: str | Path, side: int | None) -> str | Path:
    """Name a model with frames of `side` pixels; without a side it is the model as it was named.

    Raises:
        InputError: the side is not a number of pixels, or the name says another one.
    """
    if side is None:
        return source
    if isinstance(side, bool) or not isinstance(side, int) or side < 1:
        raise InputError(f"image_size {side!r:.60}: a whole number of pixels is expected, at least 1.")
    model, named = split_frame(source)
    if named not in (None, side):
        raise InputError(f"The model {model}@{named} and the image size {side} contradict each other; remove one.")
    return f"{model}@{side}"
