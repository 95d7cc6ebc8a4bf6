"""Options of what a finished model is shared with; this module loads neither torch nor numpy."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from mixqsam.errors import InputError
from mixqsam.options.fields import Option
from mixqsam.options.values import OptionClass, quote

_SHARING = "Sharing"


def parse_licence(value: Any, label: str) -> str:
    """Check an identifier of a licence, as the hub writes it.

    Raises:
        InputError: the text is not such an identifier.
    """
    text = value.strip().lower() if isinstance(value, str) else ""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise InputError(
            f"{label} {quote(value)}: the hub's identifier of a licence is expected, e.g. apache-2.0, cc-by-4.0 or "
            "other."
        )
    return text


@dataclass(frozen=True)
class SharingOptions(OptionClass):
    """Options of what the directory holds for others.

    Attributes:
        license: identifier of the licence in the model card, e.g. `apache-2.0`; None for none.
        no_images: leave pictures of the images out of the directory and of its report.
    """

    license: Annotated[
        str | None,
        Option(
            "Licence that the model card names, e.g. apache-2.0.",
            panel=_SHARING,
            parse=parse_licence,
            is_advanced=True,
        ),
    ] = None
    no_images: Annotated[
        bool,
        Option(
            "Leave pictures of the images out of the directory.",
            flags=("--no-images",),
            panel=_SHARING,
            is_advanced=True,
        ),
    ] = False
