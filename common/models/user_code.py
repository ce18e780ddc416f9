"""Loading a user's file, of a model, a loss or a metric, and the modules that it imports.

For the user's code, modules beside the file or in the working directory come first, even before our packages of the
same name (a user's `common/`). All other code still gets ours. A file in a package is imported as a module of it.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from zlib import crc32

from common.errors import ConfigError
from common.models.user_scopes import scope_of
from common.processes.user_errors import describe_error
from sideways.import_scope import is_installed

T = TypeVar("T")
_loading: ContextVar[tuple[Path, ...]] = ContextVar("loading", default=())  # the files that are being imported


class ImportEnds(BaseException):
    """Ends the import of a user's file: what follows is not for the processes of a run, such as starting it."""


@contextmanager
def no_exit(what: str) -> Iterator[None]:
    """Raise ConfigError if the user's code, run inside this context, calls sys.exit. `what` names that code."""
    try:
        yield
    except SystemExit as error:
        raise ConfigError(
            f'{what} calls sys.exit({error.code!r}): remove the call, or put it under `if __name__ == "__main__":`'
        ) from error


def with_torchvision(call: Callable[[], T]) -> T:
    """Call the user's code, and again if it imports torchvision, which fails beside a CPU-only torch until repaired."""
    try:
        return call()
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import common.torchvision_import  # noqa: F401

        return call()


def end_import() -> None:
    """End the import of the user's file that is being imported, if any. What it has defined so far can be used."""
    if _loading.get():
        raise ImportEnds


def is_reference(name: str) -> bool:
    """Whether a setting names something in a user's file: path/to/file.py:name."""
    file, colon, _ = name.rpartition(":")
    return bool(colon) and file.endswith(".py")


def load_attribute(name: str, setting: str) -> Callable[..., Any]:
    """The function or class that `path/to/file.py:name` names. `setting`: the setting with that value, for errors.

    Raises:
        ConfigError: there is no such file, it does not load, or it has no such function or class.
    """
    found: Callable[..., Any] = load_object(name, setting)
    if not callable(found):
        raise _lacks(name, setting)
    return found


def load_object(name: str, setting: str) -> Any:
    """Likewise, but anything that has a name."""
    file, _, attribute = name.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise ConfigError(
            f"{setting} = {name!r}: there is no file {path}. A relative path is relative to the working directory"
        )
    try:
        module = with_torchvision(lambda: load(path))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{setting} = {name!r}: {path} does not load: {describe_error(error)}") from error
    if not hasattr(module, attribute):
        raise _lacks(name, setting)
    return getattr(module, attribute)


def _lacks(name: str, setting: str) -> ConfigError:
    file, _, attribute = name.rpartition(":")
    return ConfigError(f"{setting} = {name!r}: {Path(file).resolve()} has no function {attribute}")


def load(path: Path) -> ModuleType:
    """Import a Python file by its absolute path. Raises what the file raises, or ConfigError if it calls sys.exit."""
    if path in _loading.get():
        raise ImportEnds  # it loads a model that it defines itself
    token = _loading.set((*_loading.get(), path))
    try:
        with no_exit(str(path)):
            return _load_module(path) if (path.parent / "__init__.py").is_file() else _load_file(path)
    finally:
        _loading.reset(token)


def _load_file(path: Path) -> ModuleType:
    name = f"sideways_user_{path.stem}_{crc32(os.fsencode(path)):08x}"  # pickle and torch.compile look it up
    spec = spec_from_file_location(name, path)
    assert spec is not None
    module = scope_of([path.parent, Path.cwd()]).adopt(spec)
    sys.modules[spec.name] = module
    assert spec.loader is not None
    with suppress(ImportEnds):
        spec.loader.exec_module(module)
    return module


def _load_module(path: Path) -> ModuleType:
    folder = next(above for above in path.parents if not (above / "__init__.py").is_file())
    package, *names = path.relative_to(folder).with_suffix("").parts
    there = sys.modules.get(package) if is_installed(folder) else None
    if there is not None and Path(there.__file__ or "").resolve().parent != folder / package:
        raise ConfigError(
            f"{path} is in a package named {package}, and {there.__file__ or 'another'} was imported under that name: "
            "rename one of them"
        )
    name = ".".join([package, *names])
    try:
        return import_module(name) if is_installed(folder) else scope_of([folder, path.parent, Path.cwd()]).load(name)
    except ImportEnds:
        raise ConfigError(f'{path} starts a run when imported: do so under `if __name__ == "__main__":`') from None
