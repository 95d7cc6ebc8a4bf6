"""Files that are either whole or absent: atomic writes, locks, hashes and the cache of finished stages."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mixqsam.errors import ArtifactError, OutputError, shortened

# Seconds that a process waits for another one's stage.
_GRACE = 2.0
# Seconds after which nobody is writing a temporary file any more.
_STALE = 3600.0


@contextlib.contextmanager
def named_failures(target: Path) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written into an error that names `target`.

    Raises:
        OutputError: the disk is full, the place is read-only, …
    """
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
    with named_failures(path):
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


def parse_json(text: str) -> Any:
    """A JSON text's value. `NaN` and `Infinity`, which Python would take and JSON has not, are refused.

    Raises:
        ValueError: it is not JSON, or holds a number of more digits than anybody writes.
        RecursionError: it is nested too deeply.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not a number of JSON")

    return json.loads(text, parse_constant=refuse)


def read_text(path: Path) -> str:
    """A text file's content, in UTF-8 with or without a byte-order mark.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        # Its own text may hold all that was read.
        raise ValueError(f"it is not text in UTF-8 (byte {error.start}: {error.reason})") from None


def read_json(path: Path, *, what: str) -> Any:
    """Read a JSON file; `what` names it in the error ("an analysis").

    Raises:
        ArtifactError: the file is missing or is not JSON.
    """
    try:
        return parse_json(read_text(path))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; expected {what}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as {what}: {shortened(error)}.") from error


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


def is_locked(file: int | TextIO) -> bool:
    """Whether this process now holds the lock of an open file; it goes with the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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

    def sweep(self) -> None:
        """Remove what writers that were killed have left: temporary files of more than an hour ago."""
        with contextlib.suppress(OSError):
            for path in self.root.glob(".*"):
                if path.is_file() and time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()

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
        with named_failures(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("w")
        with stream:
            given_up = float("inf") if self.patient else time.monotonic() + _GRACE
            while not is_locked(stream):
                if time.monotonic() > given_up:
                    raise OutputError(
                        f"Another mixqsam process is working on the same {stage} (lock {path}); "
                        "wait for it, or stop it, and run the command again."
                    )
                time.sleep(0.05)
            yield
