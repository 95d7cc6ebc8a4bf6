"""Tell a broken library of the environment from a fault of mixqsam."""

import traceback
from collections.abc import Iterator
from pathlib import Path

from mixqsam.errors import shortened

_OWN = Path(__file__).parents[1]
_IMPORTS = "importlib._bootstrap"


def describe_broken_import(error: BaseException) -> str | None:
    """What to say where a library that is installed, or should be, cannot be imported; None for any other error."""
    causes = list(_chain(error))
    if not any(_is_foreign_import(cause) for cause in causes):
        return None
    root = causes[-1]
    name = _package(root)
    advice = (
        f"Reinstall {name} in a version that fits the others, or remove it if nothing needs it"
        if name
        else "Install it"
    )
    return (
        f"A library of this Python environment cannot be imported: {shortened(name or type(root).__name__)}: "
        f"{shortened(root)}. {advice}. scripts/install makes an environment that works."
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it came from; transformers hides the first one behind its own."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is_foreign_import(error: BaseException) -> bool:
    """Whether an error was raised while a module that is not ours was imported."""
    if isinstance(error, ImportError):
        return not str(error.name or "").startswith("mixqsam")
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    own = [index for index, file in enumerate(files) if Path(file).is_relative_to(_OWN)]
    after = files[own[-1] + 1 :] if own else files
    return bool(after) and any(_IMPORTS in file for file in after)


def _package(error: BaseException) -> str | None:
    """The package whose code raised an error, or that was not found."""
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [name.partition(".")[0] for name in modules if name and "importlib" not in name]
    if isinstance(error, ModuleNotFoundError) and error.name:
        return error.name
    return packages[-1] if packages else None
