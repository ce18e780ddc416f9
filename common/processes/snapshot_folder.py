"""Where the processes of a host keep snapshots of their state, in memory that outlives each of them.

    FOLDER/NAME.TICK    the state of the process NAME before TICK; the newest ones only

NAME is a process of this host, or one of another host that leaves copies here.

The launcher makes the folder and removes it when the run ends. If all processes of a run were killed, the next launcher
removes it: a lock, which the launcher and its forks hold, tells that nobody is left. Under torchrun there is none: the
processes make one that is named after the run directory, and the last one removes it at the orderly end of the run.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from shutil import rmtree

from common.errors import ConfigError

SNAPSHOTS = "SIDEWAYS_SNAPSHOTS"  # environment: the launcher's folder
_MEMORY = Path("/dev/shm")  # noqa: S108  # the kernel's file system in memory
_PART = ".part"
_LOCK = "lock"


def make_folder() -> Path:
    """Make a folder that nobody else can read, and set it in the environment. Removes those of which nobody is left."""
    for old in _place().glob("sideways-*"):
        with suppress(OSError), open(old / _LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="sideways-", dir=_place()))
    lock = os.open(folder / f"{_LOCK}{_PART}", os.O_CREAT | os.O_WRONLY, 0o600)  # open as long as this process lives
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(folder / f"{_LOCK}{_PART}", folder / _LOCK)  # nobody finds it before it is locked
    os.environ[SNAPSHOTS] = str(folder)
    return folder


def remove_folder() -> None:
    """Remove the launcher's folder, if there is one."""
    if SNAPSHOTS in os.environ:
        rmtree(os.environ[SNAPSHOTS], ignore_errors=True)


def has_snapshots() -> bool:
    """Whether processes have kept anything in the launcher's folder that a later attempt can go on from."""
    return SNAPSHOTS in os.environ and any(Path(os.environ[SNAPSHOTS]).glob("*.[0-9]*"))


def folder_of(run: Path) -> Path:
    """The launcher's folder, or else the one named after the run directory."""
    name = sha256(os.fsencode(run.absolute())).hexdigest()[:16]
    return Path(os.environ.get(SNAPSHOTS) or _place() / f"sideways-{os.getuid()}-{name}")


def _place() -> Path:
    return _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


class SnapshotFolder:
    """The snapshots on this host."""

    def __init__(self, path: Path) -> None:
        """Make the folder, if it is not there. Raises ConfigError if it cannot be used, or is another user's."""
        self.path = path
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            found = path.lstat()
        except OSError as error:
            raise ConfigError(
                f"cannot keep snapshots in {path}: {error.strerror}. Free memory there (df {path.parent}), or set "
                f'recovery.mode = "exact"'
            ) from error
        if path.is_symlink() or found.st_uid != os.getuid():
            raise ConfigError(
                f"{path} belongs to another user, so no snapshots are kept there: remove it, or set "
                'recovery.mode = "exact"'
            )

    def all(self) -> list[tuple[str, int]]:
        """The name and the tick of every snapshot, sorted."""
        found = (path.name.rpartition(".") for path in self.path.glob("*.*"))
        return sorted((name, int(tick)) for name, _, tick in found if tick.isdigit())

    def ticks(self, name: str) -> list[int]:
        """The ticks of the snapshots of a process, in order."""
        return [tick for other, tick in self.all() if other == name]

    def file(self, name: str, tick: int) -> Path:
        """The file of a snapshot."""
        return self.path / f"{name}.{tick}"

    def write(self, name: str, tick: int, write: Callable[[Path], None], keep: int = 1) -> None:
        """Keep what `write` writes to the path that it is given, and only the process's newest `keep`. Raises OSError.

        The new one is kept even if there are some of later ticks.
        """
        part = self.path / f"{name}{_PART}"
        try:
            write(part)
            os.replace(part, self.file(name, tick))
        finally:
            part.unlink(missing_ok=True)
        others = [other for other in self.ticks(name) if other != tick]
        for old in others[: max(0, len(others) - keep + 1)]:
            self.file(name, old).unlink(missing_ok=True)

    def forget(self, name: str, tick: int | None = None) -> None:
        """Remove a process's snapshots, or only that of one tick."""
        for old in self.ticks(name) if tick is None else [tick]:
            self.file(name, old).unlink(missing_ok=True)

    def move(self, name: str, to: str) -> None:
        """Make the newest snapshot of `name`, if there is one, the only one of `to`. Raises OSError."""
        if ticks := self.ticks(name):
            self.forget(to)
            os.replace(self.file(name, ticks[-1]), self.file(to, ticks[-1]))
            self.forget(name)

    def forget_after(self, tick: int) -> None:
        """Remove all snapshots, of all processes, of later ticks."""
        for name, other in self.all():
            if other > tick:
                self.file(name, other).unlink(missing_ok=True)

    def leave(self, *names: str, here: Collection[str] = ()) -> None:
        """The run ends: remove these processes' snapshots and all copies, and with the last of all the folder.

        `here`: the other processes of this host; the rest are copies.
        """
        for name, _ in self.all():
            if name in names or name not in here:
                self.forget(name)
        for part in self.path.glob(f"*{_PART}"):  # of a process that was killed while it wrote
            if (name := part.name.removesuffix(_PART)) in names or name not in here:
                part.unlink(missing_ok=True)
        with suppress(OSError):  # another process still has one
            self.path.rmdir()
