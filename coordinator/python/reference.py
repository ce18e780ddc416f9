"""A Python object as text that a run file can hold, and from which the processes of a run import it."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from common.errors import ConfigError
from common.models import ZOO
from sideways.import_scope import is_installed

_INSTEAD = {  # what to pass instead of a module
    "model": "pass the function that builds it, as each process of the run builds its own blocks",
    "loss": 'name it at the top level of a file and pass loss="mine.py:NAME", or pass a function',
    "val_metrics": 'name its class, "{kind}" or {{"metric": "{kind}", …}} with its arguments, or pass a function',
}


def reference(factory: Callable[..., Any], setting: str = "model") -> str:
    """The setting for a function or class: path/to/file.py:name, or for a model its name in the zoo.

    Raises:
        ConfigError: no other process could import it.
    """
    name, module = getattr(factory, "__qualname__", ""), sys.modules.get(getattr(factory, "__module__", None) or "")
    if ZOO.get(name) is factory:
        return name
    if isinstance(factory, nn.Module):
        remedy = _INSTEAD.get(setting, "pass a function that makes it").format(kind=type(factory).__name__)
        raise ConfigError(f"{setting} is an object of {type(factory).__name__}: {remedy}")
    if not name.isidentifier():
        raise ConfigError(
            f"{setting} = {factory!r} has no name in a file: define a function at the top level of one"
            f"{', and pass its arguments as model_args' if setting == 'model' else ''}"
        )
    file = _file(factory, module)
    if file is None:
        raise ConfigError(
            f"{setting} = {name}: it exists only in this session, from which the run's processes cannot import it. "
            f"Write it to a file (in a notebook, begin its cell with %%writefile mine.py and run it), and pass "
            f'{setting}="mine.py:{name}"'
        )
    if getattr(module, name, None) is not factory:
        raise ConfigError(
            f"{setting}: {file} has another {name} than the one that was passed: give it a name of its own"
        )
    return f"{file}:{name}"


def dataset_reference(dataset: object, setting: str = "dataset") -> str:
    """The setting `data.train` for a dataset, or for a function or class that makes one: path/to/file.py:name.

    A string or a path is such a setting already.

    Raises:
        ConfigError: no other process could import it.
    """
    if isinstance(dataset, str | Path):
        return str(dataset)
    if callable(dataset) and hasattr(dataset, "__qualname__"):
        return reference(dataset, setting)
    own = [module for module in list(sys.modules.values()) if _is_users(module)]
    for module in sorted(own, key=lambda module: module.__name__ != "__main__"):
        for name, value in list(vars(module).items()):
            if value is dataset and name.isidentifier():
                return f"{Path(module.__file__ or '').resolve()}:{name}"
    raise ConfigError(
        f"{setting} is an object of {type(dataset).__name__} that exists only in this session, but the run's processes "
        "import their data from a file. Write a function that makes it to one (in a notebook, begin its cell with "
        f'%%writefile mine.py and run it), and pass {setting}="mine.py:NAME"'
    )


def _is_users(module: object) -> bool:
    file = Path(getattr(module, "__file__", None) or "")
    return isinstance(module, ModuleType) and file.suffix == ".py" and not is_installed(file.resolve())


def _file(factory: Callable[..., Any], module: object) -> Path | None:
    """The source file of the module, if that is also where the factory is."""
    code = getattr(inspect.unwrap(factory), "__code__", None)
    places = [getattr(module, "__file__", None), *([code.co_filename] if code is not None else [])]
    files = [Path(place).resolve() for place in places if place]
    usable = len(files) == len(places) and files[0].suffix == ".py" and all(file.is_file() for file in files)
    return files[0] if usable else None
