"""Calls a function as soon as a module has been imported, whenever and by whatever code that happens."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def call_after_import(module: str, function: Callable[[], None]) -> None:
    """Call a function at once if a module has been imported already, otherwise at the end of its first import.

    The import ends only when the function has ended. If the function raises an error, the import fails with this error,
    and the next attempt to import the module calls the function again.

    Args:
        module: full name of a package or module.
        function: a function without arguments. It may import the module and its submodules.
    """
    if module in sys.modules:
        function()
    else:
        # It must come first, because the search ends at the first finder that finds the module.
        sys.meta_path.insert(0, _Watcher(module, function))


class _Watcher(MetaPathFinder):
    """Finds one module by asking the other finders, and replaces its loader by one that also calls the function."""

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
    """Lets the module's own loader load the module, and then calls the function.

    The module then has its own loader again. Every other request to this class is passed on to the module's own loader.
    """

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
