"""The scopes in which a user's files are imported: one for the files of a folder."""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from sideways.import_scope import NAMES, Scope, is_ours

_scopes: dict[tuple[tuple[str, ...], ...], Scope] = {}  # by their folders and names


def scope_of(folders: Sequence[Path]) -> Scope:
    """The scope of a user's code in these folders. A folder of Python files is a package, too.

    Files of the same folders share their helper modules, until a file there is edited: then all are imported anew.
    """
    real = tuple(os.path.realpath(folder) for folder in folders)
    names = tuple(name for name in NAMES if _is_theirs(name, real))
    scope = _scopes.get((real, names))
    if scope is None or _forget_edited(scope):
        scope = _scopes[real, names] = Scope(real, names)
    return scope


def _forget_edited(scope: Scope) -> bool:
    """Forget the modules in its folders if a file of theirs was edited, as beside a notebook. Tells whether one was."""
    loaders = scope.loaders()
    edited = any(loader.is_edited() for loader in loaders.values())
    for name in loaders if edited else ():
        sys.modules.pop(name, None)
    return edited


def _is_theirs(name: str, folders: Sequence[str]) -> bool:
    spec = PathFinder.find_spec(name, folders)
    if spec is None or is_ours(name, spec):
        return False
    places = spec.submodule_search_locations or []
    return spec.origin is not None or any(any(Path(place).glob("*.py")) for place in places)
