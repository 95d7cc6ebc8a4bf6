"""Make transformers know mixqsam's format and models once both are imported, without importing transformers.

That takes seconds. So a finder on `sys.meta_path` waits until transformers has loaded one of its lists. It adds to the
list only when the outermost import of transformers or mixqsam is done: within it, modules of both are half-loaded.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# transformers' module with a list → our module and its function that adds to the list.
_LISTS = {
    "transformers.quantizers.auto": ("mixqsam.artifact.registered", "register"),
    "transformers.models.auto.configuration_auto": ("mixqsam.families.mobile_sam_config", "register_config"),
    "transformers.models.auto.modeling_auto": ("mixqsam.families.mobile_sam_model", "register"),
    "transformers.models.auto.processing_auto": ("mixqsam.families.mobile_sam_config", "register_processor"),
}


class _Finder(MetaPathFinder):
    """Sees the imports of transformers' and mixqsam's modules until every list is filled.

    Attributes:
        waiting: lists that are not filled yet.
        is_inside: whether such an import is in progress.
    """

    def __init__(self) -> None:
        self.waiting = set(_LISTS)
        self.is_inside = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """For the outermost module: its own specification with our loader around its loader."""
        del path, target
        if self.is_inside or fullname.partition(".")[0] not in {"transformers", "mixqsam"}:
            return None
        with self.inside():
            spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _After(spec.loader, self)
        return spec

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Leave alone the imports of this block."""
        self.is_inside = True
        try:
            yield
        finally:
            self.is_inside = False

    def fill(self) -> None:
        """Add to the lists that are loaded by now; adding may load others."""
        while ready := sorted(self.waiting & sys.modules.keys()):
            module, function = _LISTS[ready[0]]
            getattr(import_module(module), function)()
            self.waiting.remove(ready[0])
        if not self.waiting:
            sys.meta_path.remove(self)


class _After(Loader):
    """Loads a module as its own loader does, and fills lists after that."""

    def __init__(self, own: Loader, finder: _Finder) -> None:
        self._own, self._finder = own, finder

    def __getattr__(self, name: str) -> Any:
        # `python -m` asks the loader for the module's code.
        return getattr(self._own, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader does."""
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then fill lists."""
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._own
        if self._finder.is_inside:
            self._own.exec_module(module)
            return
        with self._finder.inside():
            self._own.exec_module(module)
            self._finder.fill()


def register() -> None:
    """Make transformers load what mixqsam wrote: now, or as soon as transformers is imported.

    Importing mixqsam does this too; calling it again does nothing.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    with finder.inside():
        finder.fill()
