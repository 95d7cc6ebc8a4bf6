"""Register mixqsam's format and models in transformers as soon as that is imported.

Importing transformers takes seconds, so this module does not import it. A finder on `sys.meta_path` waits until
transformers has loaded one of its lists. It registers only after the outermost import of transformers or mixqsam:
within that import, modules of both are only partly loaded.
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

# Module of transformers with a list → our module and its function that adds to the list.
_REGISTRATIONS = {
    "transformers.quantizers.auto": ("mixqsam.artifact.registered", "register"),
    "transformers.models.auto.configuration_auto": ("mixqsam.families.registered", "register_configs"),
    "transformers.models.auto.modeling_auto": ("mixqsam.families.registered", "register_models"),
    "transformers.models.auto.processing_auto": ("mixqsam.families.registered", "register_processors"),
}


class _ImportWatcher(MetaPathFinder):
    """Watches the imports of transformers and mixqsam until every list is filled.

    Attributes:
        waiting: lists that are not filled yet.
        is_suspended: whether imports are ignored, because one is in progress.
    """

    def __init__(self) -> None:
        self.waiting = set(_REGISTRATIONS)
        self.is_suspended = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Wrap the loader of the outermost module."""
        del path, target
        if self.is_suspended or fullname.partition(".")[0] not in {"transformers", "mixqsam"}:
            return None
        with self.suspend():
            spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _FillingLoader(spec.loader, self)
        return spec

    @contextmanager
    def suspend(self) -> Iterator[None]:
        """Ignore the imports of this block."""
        self.is_suspended = True
        try:
            yield
        finally:
            self.is_suspended = False

    def fill_lists(self) -> None:
        """Fill the lists that are loaded; this may load others."""
        while loaded := sorted(self.waiting & sys.modules.keys()):
            module, function = _REGISTRATIONS[loaded[0]]
            getattr(import_module(module), function)()
            self.waiting.remove(loaded[0])
        if not self.waiting:
            sys.meta_path.remove(self)


class _FillingLoader(Loader):
    """Loads a module with its original loader, then fills the lists."""

    def __init__(self, loader: Loader, finder: _ImportWatcher) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        # `python -m` asks the loader for the module's code.
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module with its original loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then fill the lists."""
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        if self._finder.is_suspended:
            self._loader.exec_module(module)
            return
        with self._finder.suspend():
            self._loader.exec_module(module)
            self._finder.fill_lists()


def register() -> None:
    """Let transformers load quantized directories: now, or as soon as transformers is imported.

    Importing mixqsam calls this. A second call has no effect.
    """
    if any(isinstance(watcher, _ImportWatcher) for watcher in sys.meta_path):
        return
    watcher = _ImportWatcher()
    sys.meta_path.insert(0, watcher)
    with watcher.suspend():
        watcher.fill_lists()
