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
from hashlib import sha256
from pathlib import Path
from re import sub

from common.config.settings import Config
from common.errors import ConfigError, SidewaysError
from coordinator.atomic_file import replacing

LAUNCH, RESTARTS = "SIDEWAYS_LAUNCH", "SIDEWAYS_RESTARTS"  # set by `sideways train`; LAUNCH also by a deployment
LAST = "SIDEWAYS_LAST_ATTEMPT"  # "1": no restart is left


def restarts() -> int:
    """Number of attempts before this one."""
    return int(os.environ.get(RESTARTS, 0)) + int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def may_be_restarted() -> bool:
    """Whether another attempt follows if a process is lost."""
    if RESTARTS in os.environ:
        return os.environ.get(LAST) != "1"
    count, most = (int(os.environ.get(f"TORCHELASTIC_{name}", 0)) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return count < most


def deployed() -> bool:
    """Whether a deployment named the launch (SIDEWAYS_LAUNCH), not `sideways train`."""
    return LAUNCH in os.environ and RESTARTS not in os.environ


class RunMarker:
    """The file by which a later attempt finds the run directory."""

    def __init__(self, config: Config) -> None:
        """`config`: the settings that this attempt was started with."""
        self._launch = os.environ.get(LAUNCH) or os.environ.get("TORCHELASTIC_RUN_ID") or "by-hand"
        self._file = config.runs / f".launch-{sub('[^A-Za-z0-9._-]', '_', self._launch)[:100]}"
        self._settings = sha256(config.model_dump_json(exclude={"runs"}, exclude_defaults=True).encode()).hexdigest()

    def write(self, directory: Path) -> None:
        """Record `directory` as the run directory. Raises SidewaysError."""
        before = self._read()
        # a later attempt has the settings of the run directory, in which what was measured has been filled in
        settings = before[1] if before is not None and before[0] == directory.absolute() else self._settings
        try:
            with replacing(self._file) as part:
                part.write_text(f"{directory.absolute()}\n{settings}", encoding="utf-8")
        except OSError as error:
            raise SidewaysError(f"cannot write {self._file}: {error.strerror}. Free disk space there") from error

    def find(self) -> Path | None:
        """The run directory of an earlier attempt of this launch; None if there was none, or it was removed."""
        if not restarts() and not deployed():
            return None
        found = self._read()
        return found[0] if found is not None and found[0].is_absolute() and found[0].is_dir() else None

    def check(self) -> None:
        """Raise ConfigError if a deployment's launch belongs to a run that was started with other settings."""
        found = self._read() if deployed() and self.find() is not None else None
        if found is not None and found[1] not in ("", self._settings):
            raise ConfigError(
                f"the launch {self._launch} belongs to the run {found[0]}, which was started with other settings: give "
                f"this one another name ({LAUNCH}), or remove {self._file} to give up that run"
            )

    def _read(self) -> tuple[Path, str] | None:
        """The run directory, and the settings that it was started with, as a hash."""
        with suppress(OSError):
            directory, _, settings = self._file.read_text(encoding="utf-8").partition("\n")
            return Path(directory), settings
        return None

    def remove(self) -> None:
        """Remove the marker: no later attempt is to resume this run."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
