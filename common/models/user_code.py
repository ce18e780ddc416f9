"""Loading a user's model file and the modules that it imports.

For the user's code, modules beside the file or in the working directory take precedence, even over our packages of the
same name (a user's `common/`). All other code still gets ours: only the user's modules get a special `__import__`.
"""

import builtins
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import ConfigError

_OURS = ("common", "coordinator", "stage_worker")


@contextmanager
def no_exit(what: str) -> Iterator[None]:
    """Raise ConfigError if the user's code, run inside this context, calls sys.exit. `what` names that code."""
    try:
        yield
    except SystemExit as error:
        raise ConfigError(
            f'{what} calls sys.exit({error.code!r}): remove the call, or put it under `if __name__ == "__main__":`'
        ) from error


def load(path: Path) -> ModuleType:
    """Import a Python file by its absolute path. Raises what the file raises, or ConfigError if it calls sys.exit."""
    spec = spec_from_file_location(f"sideways_user_{path.stem}", path)
    assert spec is not None
    imports = _Imports([os.path.realpath(folder) for folder in (path.parent, os.getcwd())])
    module = imports.adopt(spec)
    sys.modules[spec.name] = module
    with no_exit(str(path)):
        assert spec.loader is not None
        spec.loader.exec_module(module)
    return module


class _Imports(MetaPathFinder):
    """The `__import__` and the module finder for a user's file and the modules it imports from the user's folders."""

    def __init__(self, folders: list[str]) -> None:
        self._folders = folders
        self._names = [name for name in _OURS if self._is_theirs(name)]
        self._modules: dict[str, ModuleType] = {}  # the user's modules that share a name with ours
        self.builtins = {**vars(builtins), "__import__": self.imported}

    def imported(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """As the built-in `__import__`, but the user's modules take precedence."""
        with self._first():
            return builtins.__import__(name, globals, locals, fromlist, level)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module in the user's folders. Called by Python while a module of the user imports a new one."""
        spec = PathFinder.find_spec(name, self._folders if path is None else path)
        if spec is None or not self._holds(spec):
            return None
        if spec.origin is None and path is None and name not in self._names and PathFinder.find_spec(name) is not None:
            return None  # a folder without __init__.py, and a package of that name exists elsewhere
        self._prepare(spec)
        return spec

    def adopt(self, spec: ModuleSpec) -> ModuleType:
        """Create a module of the user, not yet executed."""
        self._prepare(spec)
        return module_from_spec(spec)

    def _prepare(self, spec: ModuleSpec) -> None:
        if type(spec.loader) is SourceFileLoader:
            spec.loader = _TheirLoader(spec.loader.name, spec.loader.path, self.builtins)

    def _holds(self, spec: ModuleSpec) -> bool:
        """Whether the module is in one of the user's folders."""
        return any(Path(place).is_relative_to(folder) for place in _places(spec) for folder in self._folders)

    def _is_theirs(self, name: str) -> bool:
        """Whether the user has a package, or a folder of Python files, under this name of ours."""
        theirs, ours = PathFinder.find_spec(name, self._folders), find_spec(name)
        if theirs is None or _places(theirs) == _places(ours):
            return False
        return theirs.origin is not None or any(any(Path(place).glob("*.py")) for place in _places(theirs))

    @contextmanager
    def _first(self) -> Iterator[None]:
        """Replace our modules by the user's of the same name, and search the user's folders first."""
        if self in sys.meta_path:
            yield
            return
        ours = self._remove_shared()
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            self._modules |= self._remove_shared()
            sys.modules.update(ours)

    def _remove_shared(self) -> dict[str, ModuleType]:
        """Remove the modules with a shared name, and their submodules, from sys.modules. Returns them."""
        names = [name for name in sys.modules if name.partition(".")[0] in self._names]
        return {name: sys.modules.pop(name) for name in names}


class _TheirLoader(SourceFileLoader):
    """Runs a module with the user's `__import__` in its builtins, which its functions also use when called later."""

    def __init__(self, name: str, path: str, names: dict[str, Any]) -> None:
        super().__init__(name, path)
        self._names = names

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self._names
        super().exec_module(module)


def _places(spec: ModuleSpec | None) -> list[str]:
    """The real paths of a package or module."""
    places = (spec.submodule_search_locations or [spec.origin or ""]) if spec is not None else []
    return [os.path.realpath(place) for place in places]
