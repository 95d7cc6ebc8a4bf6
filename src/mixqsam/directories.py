"""Output directories: held by one process, written whole or not at all, and tidied after one that was killed."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mixqsam.errors import OutputError
from mixqsam.files import is_locked, named_failures


@contextlib.contextmanager
def claimed(target: Path, *, overwrite: bool, marker: str, wanted: bool = True) -> Iterator[None]:
    """Hold an output directory from before the long work until it is written.

    What a process that was killed left beside it is removed; a directory that it was about to replace is put back.

    Args:
        target: where the directory shall be.
        overwrite: replace what is there, if it holds the file `marker` (that is: if it is ours).
        marker: the name of a file that tells a directory made by mixqsam from any other.
        wanted: of a group of processes one holds it for all; for the others this is false, and nothing is held.

    Raises:
        OutputError: the target may not be replaced, cannot be written, or another process holds it.
    """
    if not wanted:
        check_new_directory(target, overwrite=overwrite, marker=marker)
        yield
        return
    path = target.parent / f".{target.name}.lock"
    with named_failures(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = _lock(path)
    if handle is None:
        raise OutputError(
            f"Another mixqsam process is writing {target} (lock {path}); wait for it, stop it, or choose another "
            "output directory."
        )
    try:
        _tidy(target)
        check_new_directory(target, overwrite=overwrite, marker=marker)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path) -> int | None:
    """A handle that holds the lock file, or None where another process does."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        if not is_locked(handle):
            os.close(handle)
            return None
        # Whoever held it before has removed it when it was done: then this is no longer the file that others see.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)


def _tidy(target: Path) -> None:
    """Remove temporary directories of a target that nobody holds, and put back what was being replaced."""
    own = re.compile(rf"\.{re.escape(target.name)}\.(old\.)?[a-z0-9_]{{8}}")
    for path in target.parent.iterdir():
        if not own.fullmatch(path.name) or not path.is_dir() or path.is_symlink():
            continue
        kept = path / target.name
        if path.name.startswith(f".{target.name}.old.") and kept.is_dir() and not target.exists():
            kept.rename(target)
        shutil.rmtree(path, ignore_errors=True)


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
    with named_failures(target):
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
