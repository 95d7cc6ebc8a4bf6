"""The npm package of the browser's runtime: from a file, the cache, npm or the registry, and verified."""

import base64
import hashlib
import http.client
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mixqsam.errors import InputError, shortened
from mixqsam.files import default_cache, explain_write_errors

NAME, VERSION = "onnxruntime-web", "1.30.0"
# Of the packed file, as npm writes it into lock files.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILE = f"{NAME}-{VERSION}.tgz"
REGISTRY = f"https://registry.npmjs.org/{NAME}/-/{FILE}"
# Seconds until a download of 33 MB is given up, and until a connection is.
_DOWNLOAD_SECONDS, _CONNECT_SECONDS = 600, 30


def find_package(given: Path | None = None) -> Path:
    """The verified package: the given file, else that of the cache, else a download, which fills the cache.

    Args:
        given: a file that `npm pack` wrote, for machines without a network.

    Raises:
        InputError: it is nowhere to be had, or is another file; the message says how to get it.
        OutputError: the cache cannot be written.
    """
    if given is not None:
        return _verified(given)
    cached = default_cache() / "released" / FILE
    if cached.is_file():
        return _verified(cached, remedy="Remove it; the next export downloads it again.")
    with explain_write_errors(cached):
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent, prefix=f".{FILE}.") as folder:
            return _verified(_download(Path(folder))).replace(cached)


def read_members(package: Path, names: Sequence[str]) -> Mapping[str, bytes]:
    """Files of the package's folder `dist`, by name.

    Raises:
        InputError: it cannot be read, or one of them is missing.
    """
    found = {}
    try:
        with tarfile.open(package) as archive:
            for name in names:
                stream = archive.extractfile(f"package/dist/{name}")
                found[name] = stream.read() if stream else b""
    except (OSError, tarfile.TarError, EOFError, KeyError) as error:
        raise InputError(f"{package} cannot be read as {NAME} {VERSION}: {shortened(error)}.") from error
    return found


def _verified(path: Path, *, remedy: str = f"Get it with `npm pack {NAME}@{VERSION}`.") -> Path:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read as {NAME} {VERSION}: {error.strerror}. {remedy}") from error
    digest = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if digest != INTEGRITY:
        raise InputError(f"{path} is not {NAME} {VERSION} as published: its SHA-512 differs. {remedy}")
    return path


def _download(folder: Path) -> Path:
    """The package from npm, with its settings for mirrors and proxies; without npm, from the registry.

    Raises:
        InputError: neither has it.
    """
    ways: tuple[Callable[[Path], Path], ...] = (_pack, _fetch)
    reasons = []
    for way in ways:
        try:
            return way(folder)
        except _UnavailableError as error:
            reasons.append(str(error))
    raise InputError(
        f"The page needs {NAME} {VERSION}, which is not in the cache ({default_cache() / 'released'}). "
        f"{'; '.join(reasons)}. Where there is a network, run `npm pack {NAME}@{VERSION}`, "
        f"and pass the file with --runtime-package {FILE}."
    )


class _UnavailableError(Exception):
    """One way to get the package does not work here."""


def _pack(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise _UnavailableError("npm is not installed")
    command = [npm, "pack", f"{NAME}@{VERSION}", "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(  # noqa: S603  (fixed words)
            command, check=True, capture_output=True, text=True, cwd=folder, timeout=_DOWNLOAD_SECONDS
        )
    except subprocess.CalledProcessError as error:
        raise _UnavailableError(f"npm failed: {shortened(error.stderr or error)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _UnavailableError(f"npm failed: {shortened(error)}") from error
    if not (folder / FILE).is_file():
        raise _UnavailableError("npm wrote no file")
    return folder / FILE


def _fetch(folder: Path) -> Path:
    target = folder / FILE
    try:
        with urllib.request.urlopen(REGISTRY, timeout=_CONNECT_SECONDS) as answer, target.open("wb") as copy:
            shutil.copyfileobj(answer, copy)
    except (OSError, http.client.HTTPException) as error:
        raise _UnavailableError(f"{REGISTRY} cannot be had: {shortened(error)}") from error
    return target
