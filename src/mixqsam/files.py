"""Atomic writes, locks, hashes, and the cache of finished stages."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from mixqsam.errors import ArtifactError, OutputError, shortened

# Seconds that a process waits for a stage that another one has locked.
_LOCK_SECONDS = 2.0
# Seconds after which a temporary file belongs to a killed process.
_STALE_SECONDS = 3600.0


@contextlib.contextmanager
def explain_write_errors(target: Path) -> Iterator[None]:
    """Turn the system's write errors into an error that names `target`.

    Raises:
        OutputError: the disk is full, the folder is read-only, …
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
        OutputError: the disk is full, or the folder is not writable.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files, all of them or none, each as `write_bytes` does.

    Raises:
        OutputError: the disk is full, a folder is not writable, or a directory has the name of a file.
    """
    temporary: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            with explain_write_errors(path):
                _write_beside(path, content, temporary)
        for path, written in temporary.items():
            with explain_write_errors(path):
                written.replace(path)
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)


def _write_beside(path: Path, content: bytes, temporary: dict[Path, Path]) -> None:
    """Write a temporary file beside `path`, and note it as soon as it exists."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary[path] = Path(name)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary[path].chmod(0o644)


def number_paths(path: Path, count: int) -> list[Path]:
    """Name each of several files: the path itself for one, or numbered ones beside it (`name-1.png`, `name-2.png`)."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count + 1)]


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Encode `value` as indented JSON."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def parse_json(text: str) -> Any:
    """Parse JSON. `NaN` and `Infinity` are errors; Python would accept them, but they are not JSON.

    Raises:
        ValueError: the text is not JSON, or a number has too many digits.
        RecursionError: the text is nested too deeply.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not a JSON number")

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
    """A short hash of JSON values, which names results by their inputs."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def default_cache() -> Path:
    """The folder of the cache: `$MIXQSAM_CACHE`, or `mixqsam` in the user's cache folder."""
    if folder := os.environ.get("MIXQSAM_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixqsam"


def try_lock(file: int | TextIO) -> bool:
    """Lock an open file and return whether that worked; the lock ends with the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Cache:
    """Finished stages, each a JSON file named after the hash of its inputs.

    One process at a time works on one stage. A second one waits for a moment, because the first may only be reading a
    finished stage; then it raises an error. With `wait_for_locks` it waits until the stage is free, because a group's
    processes work on the same stage on purpose.
    """

    def __init__(self, root: Path, *, wait_for_locks: bool = False) -> None:
        self.root, self.wait_for_locks = root, wait_for_locks

    def sweep(self) -> None:
        """Remove temporary files of killed processes: those older than an hour."""
        with contextlib.suppress(OSError):
            for path in self.root.glob(".*"):
                if path.is_file() and time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()

    def path(self, stage: str, key: str) -> Path:
        """The file with the result of `stage` for inputs `key`."""
        return self.root / f"{stage}-{key}.json"

    def get(self, stage: str, key: str) -> Any | None:
        """Read the result of a finished stage, or None. A file that cannot be read counts as missing."""
        path = self.path(stage, key)
        if not path.exists():
            return None
        try:
            return read_json(path, what=f"a cached {stage}")
        except ArtifactError:
            return None

    def put(self, stage: str, key: str, value: Any) -> None:
        """Store the result of a finished stage."""
        write_json(self.path(stage, key), value)

    @contextlib.contextmanager
    def lock(self, stage: str, key: str, *, is_main_process: bool = True) -> Iterator[None]:
        """Lock a stage, so that only this process works on the same inputs.

        In a group of processes only the main one locks the stage.

        Raises:
            OutputError: another process has locked it.
        """
        if not is_main_process:
            yield
            return
        path = self.path(stage, key).with_suffix(".lock")
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("w")
        with stream:
            deadline = float("inf") if self.wait_for_locks else time.monotonic() + _LOCK_SECONDS
            while not try_lock(stream):
                if time.monotonic() > deadline:
                    raise OutputError(
                        f"Another mixqsam process is working on the same {stage} (lock {path}); "
                        "wait for it, or stop it, and run the command again."
                    )
                time.sleep(0.05)
            yield
