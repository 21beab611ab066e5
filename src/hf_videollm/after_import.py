"""Calls a function as soon as a module has been imported, now or later, by whomever."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def call_after_import(module: str, function: Callable[[], None]) -> None:
    """Call a function at once if a module has been imported, otherwise at the end of its first import.

    No import ends before the function has. If it raises, so does the import, and the next one calls it again.

    Args:
        module: full name of a top-level package.
        function: takes nothing; may import the module and its submodules.
    """
    if module in sys.modules:
        function()
    else:
        # In front: the finder that knows where the module is would end the search.
        sys.meta_path.insert(0, _Watcher(module, function))


class _Watcher(MetaPathFinder):
    """Finds one module where the other finders do, and has its loader call the function in the end."""

    def __init__(self, module: str, function: Callable[[], None]) -> None:
        self.module = module
        self.function = function

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self)
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    """Loads by the module's own loader, which the module keeps; questions about the module go to it as well."""

    def __init__(self, own: Loader, watcher: _Watcher) -> None:
        self.own = own
        self.watcher = watcher

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.own
        if module.__spec__ is not None:
            module.__spec__.loader = self.own
        self.own.exec_module(module)
        self.watcher.function()
        if self.watcher in sys.meta_path:
            sys.meta_path.remove(self.watcher)

    def __getattr__(self, name: str) -> object:
        return getattr(self.own, name)


__all__ = ["call_after_import"]
