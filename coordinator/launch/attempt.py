"""Which attempt of a run this is, and where earlier attempts left the run directory.

Both launchers, `sideways train` and torchrun (--max-restarts), restart all processes when one is lost, and set the
number of restarts in the environment. The first attempt writes the path of the run directory to a run marker, a file
in the folder of runs that is named after the launch. A later attempt reads it and resumes that run. The marker is
removed when the run ends.

A restarted container has no count of restarts. There SIDEWAYS_LAUNCH names the launch, and the run is resumed as long
as the marker exists. The marker is then kept if the run is stopped early, for example because its host shuts down.
"""

import os
from contextlib import suppress
from pathlib import Path
from re import sub

from common.errors import SidewaysError

LAUNCH, RESTARTS = "SIDEWAYS_LAUNCH", "SIDEWAYS_RESTARTS"  # set by `sideways train`; LAUNCH also by a deployment


def restarts() -> int:
    """Number of attempts before this one."""
    return int(os.environ.get(RESTARTS, 0)) + int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def deployed() -> bool:
    """Whether a deployment named the launch (SIDEWAYS_LAUNCH), not `sideways train`."""
    return LAUNCH in os.environ and RESTARTS not in os.environ


class RunMarker:
    """The file by which a later attempt finds the run directory."""

    def __init__(self, runs: Path) -> None:
        """`runs`: the folder of run directories."""
        launch = os.environ.get(LAUNCH) or os.environ.get("TORCHELASTIC_RUN_ID") or "by-hand"
        self._file = runs / f".launch-{sub('[^A-Za-z0-9._-]', '_', launch)[:100]}"

    def write(self, directory: Path) -> None:
        """Record `directory` as the run directory. Raises SidewaysError."""
        part = self._file.with_name(f"{self._file.name}.part")
        try:
            part.write_text(str(directory.absolute()), encoding="utf-8")
            part.replace(self._file)  # atomic, so that a full disk leaves the old marker intact
        except OSError as error:
            raise SidewaysError(f"cannot write {self._file}: {error.strerror}. Free disk space there") from error

    def find(self) -> Path | None:
        """The run directory of an earlier attempt of this launch; None if there was none, or it was removed."""
        if not restarts() and not deployed():
            return None
        with suppress(OSError):
            directory = Path(self._file.read_text(encoding="utf-8"))
            return directory if directory.is_absolute() and directory.is_dir() else None
        return None

    def remove(self) -> None:
        """Remove the marker: no later attempt is to resume this run."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
