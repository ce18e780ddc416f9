"""The coordinator: reads video, feeds the pipeline and monitors it."""

import sys as _sys
from importlib.machinery import PathFinder as _PathFinder
from pathlib import Path as _Path

_root = _Path(__file__).resolve().parent.parent
_found = _PathFinder.find_spec("common")
if _found is None or not _found.origin or _Path(_found.origin).resolve() != _root / "common" / "__init__.py":
    _sys.path.insert(0, str(_root))  # another `common` comes first on the path (PYTHONPATH, torchrun)
