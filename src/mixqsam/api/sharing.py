"""The function that shares quantized models."""

from dataclasses import replace
from pathlib import Path

from mixqsam.pipeline.push import Push, plan_push, send
from mixqsam.pipeline.sharing import parse_licence


def push(
    directory: Path | str,
    repository: str,
    *,
    license: str | None = None,  # noqa: A002  (the hub's word)
    with_images: bool = False,
    private: bool = False,
    yes: bool = False,
) -> Push:
    """Send a quantized directory to the hub, with the token of huggingface_hub.

    Args:
        directory: a directory that `quantize` wrote.
        repository: `owner/name` on the hub; it is made if there is none.
        license: identifier of the licence, e.g. `apache-2.0`; None for that of the directory's model card.
        with_images: also send the photographs, and the pages that show or name them.
        private: make a new repository private.
        yes: send; otherwise the result says what would be sent, and nothing leaves the machine.

    Returns:
        What was sent and what stays, with the address of the repository.

    Raises:
        MixqsamError: any of its kinds; the message says what to do.
    """
    licence = None if license is None else parse_licence(license, "license")
    planned = plan_push(Path(directory), repository, with_images=with_images, licence=licence)
    return replace(planned, url=send(planned, private=private)) if yes else planned
