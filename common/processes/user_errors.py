"""Where in a user's own files an exception comes from: neither in this package nor in Python or an installed one."""

import os
import sysconfig
import traceback
from pathlib import Path

from sideways.import_scope import NAMES, is_installed

_ROOT = str(Path(__file__).resolve().parents[2])
_FOREIGN = tuple(
    os.path.join(folder, "")
    for folder in (
        *(os.path.join(_ROOT, name) for name in (*NAMES, "sideways")),
        os.path.realpath(sysconfig.get_path("stdlib")),
    )
)


def describe_error(error: BaseException) -> str:
    """An exception of the user's code, and where in the user's files it was raised."""
    calls = _calls(error)
    where = f" ({os.path.basename(calls[-1].filename)}, line {calls[-1].lineno})" if calls else ""
    return f"{type(error).__name__}: {error}{where}"


def traceback_of(error: BaseException) -> str:
    """An exception with its calls: those in the user's files if there are any, else all."""
    calls = _calls(error)
    if not calls:
        return "".join(traceback.format_exception(error))
    lines = traceback.format_list(calls) + traceback.format_exception_only(error)
    return "Traceback of your own files (most recent call last):\n" + "".join(lines)


def _calls(error: BaseException) -> list[traceback.FrameSummary]:
    return [call for call in traceback.extract_tb(error.__traceback__) if _is_users(call.filename)]


def _is_users(file: str) -> bool:
    path = os.path.realpath(file)
    return os.path.isfile(path) and not is_installed(Path(path)) and not path.startswith(_FOREIGN)
