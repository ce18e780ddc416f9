"""A user's own model file, and the modules that it imports.

Those that lie beside it, or in the working directory, come first for it, even where they are named as ours are (a
user's `common/`). Ours stay what they are for everybody else: the user's modules have an `import` of their own.
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
    """While the user's code runs. Raises ConfigError where it would end the process."""
    try:
        yield
    except SystemExit as error:
        raise ConfigError(
            f'{what} calls sys.exit({error.code!r}): leave that out, or put it under `if __name__ == "__main__":`'
        ) from error


def load(path: Path) -> ModuleType:
    """Run a Python file; `path` is absolute. Raises what it raises, and ConfigError where it would end the process."""
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
    """The import statement of one user's file and of what it imports from its folders."""

    def __init__(self, folders: list[str]) -> None:
        self._folders = folders
        self._names = [name for name in _OURS if self._is_theirs(name)]
        self._modules: dict[str, ModuleType] = {}  # theirs that are named as ours
        self.builtins = {**vars(builtins), "__import__": self.imported}

    def imported(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """As the built-in __import__, but theirs come first."""
        with self._first():
            return builtins.__import__(name, globals, locals, fromlist, level)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Asked by Python while one of theirs imports something that is not there yet."""
        spec = PathFinder.find_spec(name, self._folders if path is None else path)
        if spec is None or not self._holds(spec):
            return None
        if spec.origin is None and path is None and name not in self._names and PathFinder.find_spec(name) is not None:
            return None  # any folder, and a package of that name elsewhere
        self._prepare(spec)
        return spec

    def adopt(self, spec: ModuleSpec) -> ModuleType:
        """A module that is theirs."""
        self._prepare(spec)
        return module_from_spec(spec)

    def _prepare(self, spec: ModuleSpec) -> None:
        if type(spec.loader) is SourceFileLoader:
            spec.loader = _TheirLoader(spec.loader.name, spec.loader.path, self.builtins)

    def _holds(self, spec: ModuleSpec) -> bool:
        """Whether it lies in one of their folders."""
        return any(Path(place).is_relative_to(folder) for place in _places(spec) for folder in self._folders)

    def _is_theirs(self, name: str) -> bool:
        """Whether they have Python files under a name of ours, other than ours."""
        theirs, ours = PathFinder.find_spec(name, self._folders), find_spec(name)
        if theirs is None or _places(theirs) == _places(ours):
            return False
        return theirs.origin is not None or any(any(Path(place).glob("*.py")) for place in _places(theirs))

    @contextmanager
    def _first(self) -> Iterator[None]:
        """Their modules in the place of ours, and their folders before all others."""
        if self in sys.meta_path:
            yield
            return
        ours = self._taken_out()
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            self._modules |= self._taken_out()
            sys.modules.update(ours)

    def _taken_out(self) -> dict[str, ModuleType]:
        """Modules with the names in question, and what is below them, which are no longer known after that."""
        names = [name for name in sys.modules if name.partition(".")[0] in self._names]
        return {name: sys.modules.pop(name) for name in names}


class _TheirLoader(SourceFileLoader):
    """Has a module use their `import`: functions take it from their module, whenever they run."""

    def __init__(self, name: str, path: str, names: dict[str, Any]) -> None:
        super().__init__(name, path)
        self._names = names

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self._names
        super().exec_module(module)


def _places(spec: ModuleSpec | None) -> list[str]:
    """Where a package, or a module, lies."""
    places = (spec.submodule_search_locations or [spec.origin or ""]) if spec is not None else []
    return [os.path.realpath(place) for place in places]
