"""Send a quantized directory to the hub: what is sent and what stays is known before anything leaves the machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mixqsam.artifact.store import CONFIG, INDEX, is_quantized, weight_files
from mixqsam.errors import ArtifactError, InputError, OutputError, shortened
from mixqsam.files import read_json, read_text
from mixqsam.pipeline.card import make_card
from mixqsam.pipeline.quantized_directory import PAGE, SUMMARY
from mixqsam.pipeline.report import read_run
from mixqsam.pipeline.stages import ANALYSIS, MARKER, read_analysis
from mixqsam.reporting.card import NAME as CARD
from mixqsam.reporting.card import REPOSITORY
from mixqsam.reporting.record import NAME as RUN
from mixqsam.reporting.units import NAME as UNITS

# Files that are sent always; they hold no image and no path.
_MODEL = (CONFIG, "preprocessor_config.json", INDEX, ANALYSIS, MARKER, UNITS)
_PICTURES = "--with-images sends it"
_FRONT_MATTER = re.compile(r"\A---\n(.*?)^---\n", flags=re.DOTALL | re.MULTILINE)
_LICENCE = re.compile(r"^license:[ \t]*\S.*$", flags=re.MULTILINE)


class Hub(Protocol):
    """What is used of the hub's client, `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
        """Make a repository, if there is none."""
        ...

    def create_commit(self, repo_id: str, operations: Any, *, commit_message: str) -> Any:
        """Add files in one commit."""
        ...


@dataclass(frozen=True)
class Push:
    """What a push sends.

    Attributes:
        repository: `owner/name` on the hub.
        files: path in the repository → content, or the file that has it.
        kept: path of a file that stays here → reason.
        url: address of the sent model; None if nothing was sent.
    """

    repository: str
    files: Mapping[str, Path | bytes]
    kept: Mapping[str, str]
    url: str | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Path in the repository → bytes."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


def plan_push(directory: Path, repository: str, *, with_images: bool = False, licence: str | None = None) -> Push:
    """Choose the files that a push sends; nothing is sent.

    Args:
        directory: a directory that `quantize` wrote.
        repository: `owner/name` on the hub.
        with_images: also send the photographs, and the pages that show or name them.
        licence: identifier of the licence; None for that of the directory's card.

    Raises:
        InputError: the repository's name is malformed, or the card names no licence.
        ArtifactError: the directory cannot be read.
    """
    _check_repository(repository)
    if not is_quantized(directory):
        raise ArtifactError(f"{directory} is not a directory that `mixqsam quantize` wrote.")
    kept = {}
    files: dict[str, Path | bytes] = {CARD: _prepare_card(directory, repository, licence).encode()}
    names = {path.name for path in weight_files(directory)}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        if name == CARD:
            continue
        reason = "" if name in names or name in _MODEL else _find_reason(path, name, with_images=with_images)
        if reason:
            kept[name] = reason
        else:
            files[name] = path
    return Push(repository, files, kept)


def send(push: Push, *, private: bool, hub: Hub | None = None) -> str:
    """Send the files in one commit; return the repository's address.

    Args:
        push: what `plan_push` chose.
        private: make a new repository private.
        hub: the hub's client; None for that of huggingface_hub, with the user's token.

    Raises:
        OutputError: the hub cannot be reached, or does not accept the files.
    """
    from huggingface_hub import CommitOperationAdd  # noqa: PLC0415  (only pushing talks to the hub)

    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in push.files.items()
    ]
    try:
        hub = hub or open_hub()
        url = hub.create_repo(push.repository, private=private or None, exist_ok=True)
        hub.create_commit(push.repository, operations, commit_message="Model quantized by mixqsam")
    # The hub's client, and what it is built of, raise errors of their own.
    except Exception as error:
        reason = shortened(error).rstrip(".")
        raise OutputError(
            f"The hub did not accept {push.repository}: {reason}. Check the network, and that `hf auth login` gave a "
            "token that may write there."
        ) from error
    return str(url)


def open_hub() -> Hub:
    """Open the hub's client, with the user's token."""
    from huggingface_hub import HfApi  # noqa: PLC0415  (only pushing talks to the hub)

    hub: Hub = HfApi()
    return hub


def _check_repository(repository: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository) or len(repository) > 96:
        raise InputError(f"{repository!r:.120} is not a repository on the hub; write OWNER/NAME.")


def _find_reason(path: Path, name: str, *, with_images: bool) -> str:
    """The reason why a file stays here; empty if it is sent."""
    if name == RUN:
        return "it holds paths of this machine"
    if name == SUMMARY:
        return "" if with_images else f"it names your images; {_PICTURES}"
    if name == PAGE:
        has_pictures = b"data:image/" in path.read_bytes()
        return f"it shows your images; {_PICTURES}" if has_pictures and not with_images else ""
    if name.startswith("examples/"):
        return "" if with_images else f"your image; {_PICTURES}"
    return "not a file of mixqsam"


def _prepare_card(directory: Path, repository: str, licence: str | None) -> str:
    """The directory's card, with the repository and the licence.

    Raises:
        InputError: there is no licence.
    """
    path = directory / CARD
    if path.is_file():
        text = read_text(path)
    else:
        # Directories of earlier versions have no card.
        allocation = read_json(directory / MARKER, what="an allocation")
        text = make_card(read_analysis(directory), allocation, read_run(directory))
    found = _FRONT_MATTER.match(text)
    values = found[1] if found else ""
    if licence is not None:
        values = _LICENCE.sub("", values).replace("\n\n", "\n").lstrip("\n") + f'license: "{licence}"\n'
        text = f"---\n{values}---\n{text[found.end() :] if found else text}"
    elif not _LICENCE.search(values):
        raise InputError(
            f"{path} names no licence, and a model on the hub needs one. Give --license, e.g. --license apache-2.0, "
            "or write `license: …` into the head of the file."
        )
    return text.replace(REPOSITORY, repository)
