"""Files that are either whole or absent: atomic writes, locks, hashes and the cache of finished stages."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mixqsam.errors import ArtifactError, OutputError

# Seconds that a process waits for another one's stage.
_GRACE = 2.0


@contextlib.contextmanager
def _named_failures(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"Cannot write {target}: {error.strerror or error}. Nothing was left half-written; "
            "free some space or choose another output, and run the same command again."
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that readers see the old file or the new one, never a part.

    Raises:
        OutputError: the disk is full, or the place cannot be written.
    """
    with _named_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, *, what: str) -> Any:
    """Read a JSON file; `what` names it in the error ("an analysis").

    Raises:
        ArtifactError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; expected {what}.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as {what}: {error}.") from error


@contextlib.contextmanager
def new_directory(target: Path, *, overwrite: bool, marker: str) -> Iterator[Path]:
    """Yield a temporary directory that becomes `target` when the block ends without an error.

    Args:
        target: where the directory shall be.
        overwrite: replace what is there, if it holds the file `marker` (that is: if it is ours).
        marker: the name of a file that tells a directory made by mixqsam from any other.

    Raises:
        OutputError: the target exists and may not be replaced, or cannot be written.
    """
    check_new_directory(target, overwrite=overwrite, marker=marker)
    with _named_failures(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            yield temporary
            temporary.chmod(0o755)
            _swap_in(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def check_new_directory(target: Path, *, overwrite: bool, marker: str) -> None:
    """Refuse a target that exists and may not be replaced; called before long work begins.

    Raises:
        OutputError: it exists and is not ours, or `overwrite` is false.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir() or not (target / marker).exists():
        raise OutputError(f"{target} exists and was not made by mixqsam; choose another output directory.")
    if not overwrite:
        raise OutputError(f"{target} exists already; pass --overwrite to replace it.")


def _swap_in(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
    target.rename(old / target.name)
    try:
        temporary.rename(target)
    except BaseException:
        (old / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def digest(*parts: object) -> str:
    """A short hash of JSON-able values, for naming results after their inputs."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def default_cache() -> Path:
    """Where finished stages are kept: `$MIXQSAM_CACHE`, else the user's cache folder."""
    if own := os.environ.get("MIXQSAM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixqsam"


def _locked(stream: TextIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Cache:
    """Finished stages, each a JSON file named after the hash of its inputs.

    One process at a time works on one stage. A second one waits a moment, for the first may only be reading what is
    finished, and is refused then; or it waits as long as it takes, if the cache is patient (as that of a group of
    processes is, which work on the same thing on purpose).
    """

    def __init__(self, root: Path, *, patient: bool = False) -> None:
        self.root, self.patient = root, patient

    def path(self, stage: str, key: str) -> Path:
        """The file in which the result of `stage` for inputs `key` is kept."""
        return self.root / f"{stage}-{key}.json"

    def get(self, stage: str, key: str) -> Any | None:
        """The result of a finished stage, or None. A file that cannot be read counts as absent."""
        path = self.path(stage, key)
        if not path.exists():
            return None
        try:
            return read_json(path, what=f"a cached {stage}")
        except ArtifactError:
            return None

    def put(self, stage: str, key: str, value: Any) -> None:
        """Keep the result of a finished stage."""
        write_json(self.path(stage, key), value)

    @contextlib.contextmanager
    def lock(self, stage: str, key: str, *, wanted: bool = True) -> Iterator[None]:
        """Hold a stage, so that no other process works on the same inputs.

        Of a group of processes one holds it for all; for the others `wanted` is false, and nothing is held.

        Raises:
            OutputError: another process holds it.
        """
        if not wanted:
            yield
            return
        path = self.path(stage, key).with_suffix(".lock")
        with _named_failures(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("w")
        with stream:
            given_up = float("inf") if self.patient else time.monotonic() + _GRACE
            while not _locked(stream):
                if time.monotonic() > given_up:
                    raise OutputError(
                        f"Another mixqsam process is working on the same {stage} (lock {path}); "
                        "wait for it, or stop it, and run the command again."
                    )
                time.sleep(0.05)
            yield
