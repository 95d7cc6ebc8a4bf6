"""Output directories: locked by one process, written completely or not at all, cleaned after a killed process."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mixqsam.errors import OutputError
from mixqsam.files import explain_write_errors, try_lock


@contextlib.contextmanager
def claim_directory(target: Path, *, overwrite: bool, marker: str, is_main_process: bool = True) -> Iterator[None]:
    """Lock an output directory from before the long work until it is written.

    Temporary directories of a killed process are removed. A directory that it was replacing is put back.

    Args:
        target: path of the directory.
        overwrite: replace an existing directory that contains the file `marker`.
        marker: name of a file that every directory of mixqsam contains.
        is_main_process: in a group of processes only the main one locks the directory.

    Raises:
        OutputError: the target may not be replaced, cannot be written, or is locked by another process.
    """
    if not is_main_process:
        check_new_directory(target, overwrite=overwrite, marker=marker)
        yield
        return
    path = target.parent / f".{target.name}.lock"
    with explain_write_errors(target):
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
    """Lock the file and return its handle; None if another process has locked it."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        if not try_lock(handle):
            os.close(handle)
            return None
        # The last process may have removed the file after we opened it; then other processes lock a new file.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)


def _tidy(target: Path) -> None:
    """Remove the target's temporary directories, and put back a directory that was being replaced."""
    leftover = re.compile(rf"\.{re.escape(target.name)}\.(old\.)?[a-z0-9_]{{8}}")
    for path in target.parent.iterdir():
        if not leftover.fullmatch(path.name) or not path.is_dir() or path.is_symlink():
            continue
        previous = path / target.name
        if path.name.startswith(f".{target.name}.old.") and previous.is_dir() and not target.exists():
            previous.rename(target)
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def new_directory(target: Path, *, overwrite: bool, marker: str) -> Iterator[Path]:
    """Yield a temporary directory that becomes `target` when the block ends without an error.

    Args:
        target: path of the directory.
        overwrite: replace an existing directory that contains the file `marker`.
        marker: name of a file that every directory of mixqsam contains.

    Raises:
        OutputError: the target exists and may not be replaced, or cannot be written.
    """
    check_new_directory(target, overwrite=overwrite, marker=marker)
    with explain_write_errors(target):
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
    """Check that the target may be written; called before long work begins.

    Raises:
        OutputError: the target exists, and mixqsam did not make it or `overwrite` is false.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir() or not (target / marker).exists():
        raise OutputError(f"{target} exists and was not made by mixqsam; choose another output directory.")
    if not overwrite:
        raise OutputError(f"{target} exists already; pass --overwrite to replace it.")


def free_path(path: Path) -> Path:
    """The path, or if it exists, the first of `name-2`, `name-3`, … that does not."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}" if path.is_file() else f"{path.name}-{number}")
    return free


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
