"""Several packages of one name in one process: each scope of code sees its own.

Python keeps one module of a name in a process. `common`, `coordinator` and `stage_worker` are common names, and users
have packages of these names, too: whoever imports one first would decide whose it is for all, so that a model file gets
our `common` instead of its own and fails, or the product gets the user's. So in a process of a run they are ours, and
the user's model file gets a `Scope` in which they are the user's. In a process of the user they are the user's, if
there are any, and ours are in a `Scope`.

Likewise two files of a user may each have a helper module of one name, such as `utils`, beside them. The one that is
imported first stays in sys.modules, where pickle and torch.compile look modules up; the other is its scope's alone.

The code of a scope has an `__import__` of its own, which replaces the modules of the shared names in sys.modules while
it imports. All other code still gets what it had.
"""

import builtins
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
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
_KEPT = {*sys.stdlib_module_names, *NAMES, "sideways"}  # once imported, these are no user's file of that name


class Scope(MetaPathFinder):
    """The `__import__` and the module finder of some code, for which modules in its folders come first.

    Attributes:
        names: which of `NAMES` are packages of its own.
    """

    def __init__(self, folders: Sequence[str], names: Sequence[str], others: bool = True) -> None:
        """`folders`: real paths in which its modules are; `others`: also modules of other names than `names`."""
        self.names = names
        self._folders, self._others = folders, others
        self._shared = set(names)  # names of its modules that other code has other modules of
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
            if level == 0:
                self._share(name.partition(".")[0])
            return builtins.__import__(name, globals, locals, fromlist, level)

    def load(self, name: str) -> ModuleType:
        """Import a module by its full name."""
        with _within(self):
            self._share(name.partition(".")[0])
            return import_module(name)

    def adopt(self, spec: ModuleSpec) -> ModuleType:
        """Create a module of the scope, not yet executed."""
        self._prepare(spec)
        return module_from_spec(spec)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of the scope. Called by Python while the scope's code imports a new one."""
        spec = self._own_spec(name) if path is None else PathFinder.find_spec(name, path)
        if spec is None or not self._holds(name, spec):
            return None
        if path is None and not _is_run() and _places(PathFinder.find_spec(name)) not in ([], _places(spec)):
            self._shared.add(name)  # the user's own process may import the other module of that name later
        self._prepare(spec)
        return spec

    def _own_spec(self, name: str) -> ModuleSpec | None:
        """Where in the scope's folders a module or package is, not within another."""
        spec = PathFinder.find_spec(name, self._folders)
        if spec is None or not self._holds(name, spec):
            return None
        elsewhere = PathFinder.find_spec(name) if spec.origin is None and name not in self.names else None
        if elsewhere is not None and elsewhere.origin is not None:
            return None  # a folder without __init__.py, and a package of that name exists elsewhere
        return spec

    def _share(self, name: str) -> None:
        """Hide a module that is not the scope's: Python takes what is in sys.modules before it asks for a spec."""
        present = sys.modules.get(name)
        if present is None or name in self._shared or name in _KEPT or not self._others:
            return
        spec = self._own_spec(name)
        is_another = _places(spec) != _places(present.__spec__) if spec is not None else _loader(present) is not None
        if is_another:
            self._shared.add(name)
            self._hidden |= _removed([name])

    def _holds(self, name: str, spec: ModuleSpec) -> bool:
        """Whether a module is the scope's: not one that is installed below its folders, as in an environment there."""
        if name.partition(".")[0] in self.names:
            return True
        places = _places(spec)
        inside = any(place.is_relative_to(folder) for place in places for folder in self._folders)
        return self._others and inside and not any(map(is_installed, places))

    def enter(self) -> None:
        """Replace the modules of the shared names by the scope's, and search its folders first."""
        self._hidden = _removed(self._shared)
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)

    def leave(self) -> None:
        """Undo `enter`."""
        sys.meta_path.remove(self)
        self._modules = _removed(self._shared)
        sys.modules.update(self._hidden)

    def loaders(self) -> dict[str, "Loader"]:
        """Of the modules in its folders that a scope has imported, by their names."""
        loaders = {name: _loader(module) for name, module in {**sys.modules, **self._modules}.items()}
        return {
            name: loader
            for name, loader in loaders.items()
            if loader is not None and any(Path(loader.path).is_relative_to(folder) for folder in self._folders)
        }

    def _prepare(self, spec: ModuleSpec) -> None:
        if type(spec.loader) is SourceFileLoader:
            spec.loader = Loader(spec.loader.name, spec.loader.path, self._builtins)


class Loader(SourceFileLoader):
    """Runs a module with the scope's `__import__` in its builtins, which its functions also use when called later."""

    def __init__(self, name: str, path: str, names: dict[str, Any]) -> None:
        super().__init__(name, path)
        self._names = names
        self._changed = _changed_at(path)

    def is_edited(self) -> bool:
        """Whether the file has changed since it was executed, or is gone."""
        return _changed_at(self.path) != self._changed

    def exec_module(self, module: ModuleType) -> None:
        self._changed = _changed_at(self.path)
        module.__dict__["__builtins__"] = self._names
        super().exec_module(module)


def _places(spec: ModuleSpec | None) -> list[Path]:
    """The real path of a module's file, or of a package's folders."""
    paths = (spec.submodule_search_locations or [spec.origin or ""]) if spec is not None else []
    return [Path(os.path.realpath(path)) for path in paths]


def _is_run() -> bool:
    """Whether this is a process of a run, in which a user's code is imported in scopes only."""
    return (getattr(sys.modules["__main__"], "__package__", None) or "").partition(".")[0] in (*NAMES, "sideways")


def _changed_at(file: str) -> int | None:
    """When a file was written, in nanoseconds; None if there is none."""
    return os.stat(file).st_mtime_ns if os.path.isfile(file) else None


def _removed(packages: Collection[str]) -> dict[str, ModuleType]:
    """Take packages, or modules that are in none, and all that is in them from sys.modules."""
    names = [name for name in sys.modules if name.partition(".")[0] in packages]
    return {name: sys.modules.pop(name) for name in names}


def _loader(module: ModuleType) -> Loader | None:
    """What has imported a module, if that was a scope."""
    loader = getattr(module, "__dict__", {}).get("__loader__")  # some modules import others when asked for an attribute
    return loader if isinstance(loader, Loader) else None


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


# ---- our own code


def is_ours(name: str, spec: ModuleSpec | None) -> bool:
    """Whether this is where our package of that name is."""
    return spec is not None and os.path.realpath(spec.origin or "") == os.path.join(_ROOT, name, "__init__.py")


_ours: Scope | None = None  # if the user's process has packages of our names


def ours(name: str) -> ModuleType:
    """Import one of our modules, whatever else has its name."""
    global _ours
    if _ours is None:
        with _within(None):
            if all(is_ours(package, _spec(package)) for package in NAMES):
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
    if _ours is not None or all(is_ours(name, _spec(name)) for name in NAMES):
        return
    sys.path.insert(0, _ROOT)
    paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
