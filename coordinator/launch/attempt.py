"""Which attempt of a run this is, and where the attempts before it left it.

Both launchers start all processes anew when one is lost, and say so in the environment: `sideways train` and torchrun
(--max-restarts). The first attempt leaves the run directory's name in a file named after the launch, in the folder of
runs; a later one reads it and goes on there. The file goes when the run has ended well. A container that is started
anew knows nothing of that: there SIDEWAYS_LAUNCH names the launch, and as long as the file is there, the run goes on;
there it stays when the run is stopped too, as by a host that is shut down.
"""

import os
from contextlib import suppress
from pathlib import Path
from re import sub

from common.errors import SidewaysError

LAUNCH, RESTARTS = "SIDEWAYS_LAUNCH", "SIDEWAYS_RESTARTS"  # set by `sideways train`, or by who deploys containers


def restarts() -> int:
    """How many attempts were before this one."""
    return int(os.environ.get(RESTARTS, 0)) + int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def deployed() -> bool:
    """Whether the launch was named by who deploys it, not by `sideways train`."""
    return LAUNCH in os.environ and RESTARTS not in os.environ


class RunMarker:
    """The file by which a later attempt finds the run."""

    def __init__(self, runs: Path) -> None:
        """`runs`: the folder of run directories."""
        launch = os.environ.get(LAUNCH) or os.environ.get("TORCHELASTIC_RUN_ID") or "by-hand"
        self._file = runs / f".launch-{sub('[^A-Za-z0-9._-]', '_', launch)[:100]}"

    def write(self, directory: Path) -> None:
        """This is where the run is. Raises SidewaysError."""
        part = self._file.with_name(f"{self._file.name}.part")
        try:
            part.write_text(str(directory.absolute()), encoding="utf-8")
            part.replace(self._file)  # a full disk leaves the old one whole
        except OSError as error:
            raise SidewaysError(f"cannot write {self._file}: {error.strerror}. Make room there") from error

    def find(self) -> Path | None:
        """Where an earlier attempt of this launch has left its run; None if there was none, or it came to nothing."""
        if not restarts() and not deployed():
            return None
        with suppress(OSError):
            directory = Path(self._file.read_text(encoding="utf-8"))
            return directory if directory.is_absolute() and directory.is_dir() else None
        return None

    def remove(self) -> None:
        """The run has ended well."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
