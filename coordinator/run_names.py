"""The names of runs: which are free, and the run directories of new runs."""

import time
from pathlib import Path

from common.config.settings import Config
from common.errors import SidewaysError
from coordinator.checkpoints.store import FOLDER
from coordinator.run_directory import LOCK, METRICS, MODEL, SUMMARY, lock, write_failure


def create(config: Config, run_file: str) -> Path:
    """Make a new run directory, named by `config.name` or, without one, after `run_file` and the time.

    The directory of a run of that name that ended before its first tick is used again.

    Raises SidewaysError if the name is taken or the directory cannot be made.
    """
    name = config.name or f"{Path(run_file).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    for attempt in range(100):
        path = config.runs / (name if attempt == 0 else f"{name}-{attempt}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if config.name:
                refuse_taken(config)
                (path / SUMMARY).unlink(missing_ok=True)
                return path
        except OSError as error:
            raise write_failure(path, error) from error
    raise SidewaysError(f"{config.runs} has 100 runs named {name} already: choose another name")


def refuse_taken(config: Config) -> None:
    """Raise SidewaysError if the run's name is taken."""
    if config.name and is_taken(path := config.runs / config.name):
        raise SidewaysError(
            f"the run directory {path} already exists: go on with it by --resume {path}, or choose another name (--set "
            "name=…)"
        )


def is_taken(path: Path) -> bool:
    """Whether something is there already, other than the directory of a run that ended before its first tick.

    Raises SidewaysError if a run is alive in it.
    """
    if not path.exists():
        return False
    if not (path / LOCK).is_file():
        return True  # no run made it
    lock(path).close()
    metrics = path / METRICS
    ticked = metrics.is_file() and metrics.stat().st_size > 0
    return ticked or any((path / name).exists() for name in (MODEL, FOLDER))
