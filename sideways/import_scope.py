"""Several packages of one name in one process: each scope of code sees its own.

Python keeps one module of a name in a process. `common`, `coordinator` and `stage_worker` are common names, and users
have packages of these names, too: whoever imports one first would decide whose it is for all, so that a model file gets
our `common` instead of its own and fails, or the product gets the user's. So in a process of a run they are ours, and
the user's model file gets a `Scope` in which they are the user's. In a process of the user they are the user's, if
there are any, and ours are in a `Scope`.

The code of a scope has an `__import__` of its own, which replaces the modules of the shared names in sys.modules while
it imports. All other code still gets what it had.
"""

import builtins
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

NAMES = ("common", "coordinator", "stage_worker")
_ROOT = os.path.realpath(Path(__file__).parents[1])


class Scope(MetaPathFinder):
    """The `__import__` and the module finder of some code, for which modules in its folders come first.

    Attributes:
        names: which of `NAMES` are packages of its own.
    """

    def __init__(self, folders: Sequence[str], names: Sequence[str], others: bool = True) -> None:
        """`folders`: real paths in which its modules are; `others`: also modules of other names than `names`."""
        self.names = names
        self._folders, self._others = folders, others
        self._modules: dict[str, ModuleType] = {}  # those that share a name, while they are not in sys.modules
        self._hidden: dict[str, ModuleType] = {}  # those of all other code, while they are not
        self._builtins = {**vars(builtins), "__import__": self.imported}

    def imported(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """As the built-in `__import__`, but the scope's modules come first."""
        with _within(self):
            return builtins.__import__(name, globals, locals, fromlist, level)

    def load(self, name: str) -> ModuleType:
        """Import a module by its full name."""
        with _within(self):
            return import_module(name)

    def adopt(self, spec: ModuleSpec) -> ModuleType:
        """Create a module of the scope, not yet executed."""
        self._prepare(spec)
        return module_from_spec(spec)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of the scope. Called by Python while the scope's code imports a new one."""
        spec = PathFinder.find_spec(name, self._folders if path is None else path)
        if spec is None or not self._holds(name, spec):
            return None
        if spec.origin is None and path is None and name not in self.names and PathFinder.find_spec(name) is not None:
            return None  # a folder without __init__.py, and a package of that name exists elsewhere
        self._prepare(spec)
        return spec

    def _holds(self, name: str, spec: ModuleSpec) -> bool:
        """Whether a module is the scope's: not one that is installed below its folders, as in an environment there."""
        if name.partition(".")[0] in self.names:
            return True
        places = [Path(os.path.realpath(place)) for place in (spec.submodule_search_locations or [spec.origin or ""])]
        inside = any(place.is_relative_to(folder) for place in places for folder in self._folders)
        return self._others and inside and not any(map(is_installed, places))

    def enter(self) -> None:
        """Replace the modules of the shared names by the scope's, and search its folders first."""
        self._hidden = self._remove_shared()
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)

    def leave(self) -> None:
        """Undo `enter`."""
        sys.meta_path.remove(self)
        self._modules = self._remove_shared()
        sys.modules.update(self._hidden)

    def _remove_shared(self) -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.partition(".")[0] in self.names]
        return {name: sys.modules.pop(name) for name in names}

    def _prepare(self, spec: ModuleSpec) -> None:
        if type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path, self._builtins)


class _Loader(SourceFileLoader):
    """Runs a module with the scope's `__import__` in its builtins, which its functions also use when called later."""

    def __init__(self, name: str, path: str, names: dict[str, Any]) -> None:
        super().__init__(name, path)
        self._names = names

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self._names
        super().exec_module(module)


_current: Scope | None = None  # whose modules are in sys.modules; None: those of all other code
_switching = RLock()  # one thread imports in a scope at a time


@contextmanager
def _within(scope: Scope | None) -> Iterator[None]:
    with _switching:
        before = _current
        _switch(scope)
        try:
            yield
        finally:
            _switch(before)


def _switch(scope: Scope | None) -> None:
    global _current
    if scope is _current:
        return
    if _current is not None:
        _current.leave()
    if scope is not None:
        scope.enter()
    _current = scope


def is_installed(path: Path) -> bool:
    """Whether a file or folder is in a folder that pip installs to."""
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


# ---- a user's code


def scope_of(folders: Sequence[Path]) -> Scope:
    """The scope of a user's code in these folders. A folder of Python files is a package, too."""
    real = [os.path.realpath(folder) for folder in folders]
    return Scope(real, [name for name in NAMES if _is_theirs(name, real)])


def _is_theirs(name: str, folders: Sequence[str]) -> bool:
    spec = PathFinder.find_spec(name, folders)
    if spec is None or _is_ours(name, spec):
        return False
    places = spec.submodule_search_locations or []
    return spec.origin is not None or any(any(Path(place).glob("*.py")) for place in places)


def _is_ours(name: str, spec: ModuleSpec | None) -> bool:
    return spec is not None and os.path.realpath(spec.origin or "") == os.path.join(_ROOT, name, "__init__.py")


# ---- our own code


_ours: Scope | None = None  # if the user's process has packages of our names


def ours(name: str) -> ModuleType:
    """Import one of our modules, whatever else has its name."""
    global _ours
    if _ours is None:
        with _within(None):
            if all(_is_ours(package, _spec(package)) for package in NAMES):
                for package in NAMES:  # from now on the names are ours in this process
                    import_module(package)
                return import_module(name)
        _ours = Scope([_ROOT], NAMES, others=False)
    return _ours.load(name)


def _spec(name: str) -> ModuleSpec | None:
    """Where `import name` finds, or has found, a module."""
    try:
        return find_spec(name)
    except ValueError:  # a module in sys.modules that was not imported from anywhere
        return None


def claim_names() -> None:
    """Put our packages first on the path of this process and its children, unless they are, or are in a scope."""
    if _ours is not None or all(_is_ours(name, _spec(name)) for name in NAMES):
        return
    sys.path.insert(0, _ROOT)
    paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
