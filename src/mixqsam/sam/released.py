"""Released checkpoints by name: from mixqsam's cache, else from the hub, and verified."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mixqsam.errors import ModelError
from mixqsam.files import default_cache, digest_file, explain_write_errors


@dataclass(frozen=True)
class Release:
    """A checkpoint that can be asked for by its name.

    Attributes:
        title: what people call it.
        file: its file name, in the cache and on the hub.
        repository: on the hub.
        sha256: of the file, in hexadecimal.
        script: what fetches it into the cache from a package index.
    """

    title: str
    file: str
    repository: str
    sha256: str
    script: str


RELEASES = {
    "mobile-sam": Release(
        title="MobileSAM",
        file="mobile_sam.pt",
        repository="dhkim2810/MobileSAM",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        script="scripts/get-mobile-sam",
    )
}


def release_named(text: str) -> str | None:
    """The name of the release that is asked for by its name or by its repository on the hub; None if there is none."""
    return next((name for name, release in RELEASES.items() if text in {name, release.repository}), None)


def release_path(name: str) -> Path:
    """Where the cache keeps a release, whether it is there or not.

    Raises:
        KeyError: there is no release of this name.
    """
    return default_cache() / "released" / RELEASES[name].file


def cached_release(name: str) -> Path | None:
    """The file of a release in the cache, or None. The hub is not asked.

    Raises:
        ModelError: the cache holds another file under this name.
    """
    path, release = release_path(name), RELEASES[name]
    if not path.is_file():
        return None
    if digest_file(path) != release.sha256:
        raise ModelError(
            f"{path} is not {release.title} as released: its SHA-256 differs. "
            f"Remove it, or run {release.script}, which replaces it."
        )
    return path


def find_release(name: str) -> Path:
    """The verified file of a release: from the cache, else from the hub, which fills the cache.

    Raises:
        ModelError: it is nowhere to be had, or is another file; the message says how to get it.
        OutputError: the cache cannot be written.
    """
    if (path := cached_release(name)) is not None:
        return path
    release, target = RELEASES[name], release_path(name)
    downloaded = _download(release)
    if digest_file(downloaded) != release.sha256:
        raise ModelError(
            f"{release.repository} holds another {release.file} than {release.title} as released: its SHA-256 differs. "
            f"Run {release.script}, or give the path of a file that you trust as the model."
        )
    with explain_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            copy = Path(shutil.copyfile(downloaded, Path(folder) / target.name))
            copy.replace(target)
    return target


def _download(release: Release) -> Path:
    # Imported late: it loads an HTTP client.
    from huggingface_hub import hf_hub_download  # noqa: PLC0415

    try:
        return Path(hf_hub_download(release.repository, release.file))
    # The client raises its own errors and those of its transport, of many classes; each means: not to be had here.
    except Exception as error:
        reason, folder = " ".join(str(error).split())[:200], default_cache() / "released"
        raise ModelError(
            f"{release.title} is neither in the cache ({folder}) nor to be had from {release.repository} on the hub: "
            f"{type(error).__name__}: {reason.rstrip('.')}. "
            f"Run {release.script}, or download {release.file} yourself and give its path as the model."
        ) from error
