"""A run directory that a new run of its name replaces."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree

from common.errors import ConfigError, SidewaysError
from coordinator.run_directory import LOCK
from coordinator.run_names import is_taken

_ASIDE = ".replaced"  # folder beside it


@contextmanager
def overwriting(path: Path) -> Iterator[None]:
    """Set the run directory `path` aside while a new run takes its name.

    In the end it is removed, or put back if the new run has not trained.

    Raises:
        ConfigError: no run made the directory.
        SidewaysError: a run is alive in it, or it cannot be renamed.
    """
    if path.exists() and not (path / LOCK).is_file():
        raise ConfigError(f"{path} is not a run's: it is not overwritten. Choose another name")
    path = path.absolute()  # the working directory may change meanwhile
    aside = path.parent / _ASIDE / path.name
    if is_taken(path):
        _move(path, aside)
    try:
        yield
    finally:
        with suppress(SidewaysError):  # the new run is still alive: leave both
            if is_taken(path):
                rmtree(aside, ignore_errors=True)
            elif aside.exists():
                _move(aside, path)
        with suppress(OSError):
            aside.parent.rmdir()  # unless it has others


def _move(path: Path, to: Path) -> None:
    """Rename `path`, in place of what is at `to`."""
    try:
        to.parent.mkdir(exist_ok=True)
        rmtree(to, ignore_errors=True)
        path.rename(to)
    except OSError as error:
        raise SidewaysError(f"cannot rename {path} to {to}: {error.strerror}") from error
