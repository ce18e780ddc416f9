"""What a run tells the Python process that started it (`sideways.train`): its directory and its errors.

The caller names a folder in the environment, and the processes of the run write to files in it. Runs that the command
line started have no caller: nothing is written.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

CALLER = "SIDEWAYS_CALLER"  # environment: the folder
_DIRECTORY, _ERRORS = "directory", "errors"


def has_caller() -> bool:
    """Whether a Python process started this run and waits for it."""
    return CALLER in os.environ


def wording(command_line: str, python: str) -> str:
    """Which of two texts fits how the user started this run: by the command line, or from Python."""
    return python if has_caller() else command_line


def how_to_resume(directory: Path) -> str:
    """The call that goes on with a run."""
    return wording(f"sideways train --resume {directory}", f"sideways.train(resume={str(directory)!r})")


def write_directory(path: Path) -> None:
    """Write the run directory, for the caller."""
    _append(_DIRECTORY, str(path.absolute()))


def write_error(kind: str, message: str) -> None:
    """Write an error, for the caller: the name of its class, or an empty string, and its message."""
    _append(_ERRORS, [kind, message])


def clear_errors() -> None:
    """Another attempt begins, so the errors of the last one do not count."""
    if has_caller():
        (Path(os.environ[CALLER]) / _ERRORS).unlink(missing_ok=True)


def read_directory(folder: Path) -> Path | None:
    """The run directory; None while there is none."""
    return next((Path(path) for path in _read(folder, _DIRECTORY)), None)


def read_errors(folder: Path) -> list[tuple[str, str]]:
    """The errors of the last attempt, in order."""
    return [(kind, message) for kind, message in _read(folder, _ERRORS)]


def _append(name: str, value: object) -> None:
    if has_caller():
        with suppress(OSError), open(Path(os.environ[CALLER]) / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")


def _read(folder: Path, name: str) -> Iterator[Any]:
    with suppress(OSError):
        yield from map(json.loads, (folder / name).read_text(encoding="utf-8").splitlines())
