"""Make transformers know mixqsam's format once both are imported, without importing transformers (that takes seconds).

Either transformers' list of quantization methods is loaded already, or a finder on `sys.meta_path` waits for it.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_LIST = "transformers.quantizers.auto"


class _After(Loader):
    """Loads a module as its own loader does, and registers after that."""

    def __init__(self, own: Loader) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader does."""
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then register."""
        self._own.exec_module(module)
        _register_now()


class _Finder(MetaPathFinder):
    """Waits for the one module, once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own specification with our loader around its loader."""
        del path, target
        if fullname != _LIST:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _After(spec.loader)
        return spec


def _register_now() -> None:
    from mixqsam.artifact import registered  # noqa: PLC0415  (it imports transformers)

    registered.register()


def register() -> None:
    """Make transformers load what mixqsam wrote: now, or as soon as transformers is imported.

    Importing mixqsam does this too; calling it again does nothing.
    """
    if _LIST in sys.modules:
        _register_now()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
